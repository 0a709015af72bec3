"""The verbs of jobs and services over the wire, each with what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from chaos_fleet import ChaosFleet, echo_job

from tunefleet.fleet.v1.fleet_pb2 import ServiceState
from tunefleet.job.v1 import job_service_pb2 as pb
from tunefleet.job.v1 import job_service_pb2_grpc as job_grpc
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_client import Client
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.security.principal import Principal, Role, principal_of_call
from tunefleet_coordinator.servicers.job import JobServicer
from tunefleet_coordinator.store import Store
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import HistoryTrimmed, Policy
from tunefleet_core.rpc import RpcContext, open_channel
from tunefleet_core.testing import samples


@pytest.fixture
async def client(fleet: ChaosFleet) -> AsyncIterator[Client]:
    """A client of a fleet with one trainer."""
    await fleet.start_trainer()
    async with fleet.client() as opened:
        yield opened


async def _state(fleet: ChaosFleet, client: Client, name: str, state: JobState.ValueType) -> None:
    async def is_so() -> bool:
        return (await client.jobs.get(name)).state == state

    await fleet.until(is_so, f"{name} is {JobState.Name(state)}")


async def _refused(call: Callable[[], object]) -> TunefleetError:
    with pytest.raises(TunefleetError) as caught:
        await call()  # type: ignore[misc]
    return caught.value


async def test_the_life_of_a_job_with_every_verb(fleet: ChaosFleet, client: Client) -> None:
    spec = echo_job(steps=200, step_seconds=0.02)
    spec.labels["team"] = "search"
    spec.priority = 2
    checked = await client.jobs.create(spec, validate_only=True)
    assert (checked.name, checked.labels["team"], checked.priority) == ("", "search", 2)
    assert checked.resolved_spec_digest
    assert await client.jobs.list() == ()

    job = await client.jobs.create(spec, job_id="one")
    assert (dict(job.labels), job.priority) == ({"team": "search"}, 2)
    taken = await _refused(lambda: client.jobs.create(spec, job_id="one", validate_only=True))
    assert taken.reason is Reason.JOB_EXISTS
    await _state(fleet, client, job.name, JobState.JOB_STATE_RUNNING)
    assert [list(service.holds) for service in await client.fleet.list()] == [[job.name]]
    assert (await client.jobs.pause(job.name)).state in (
        JobState.JOB_STATE_PAUSING,
        JobState.JOB_STATE_PAUSED,
    )
    await _state(fleet, client, job.name, JobState.JOB_STATE_PAUSED)

    changed = await client.jobs.update(job.name, labels={"Team": "x"}, priority=-1)
    assert (dict(changed.labels), changed.priority) == ({"Team": "x"}, -1)
    stale = await _refused(lambda: client.jobs.update(job.name, priority=3, etag=job.etag))
    assert stale.reason is Reason.ETAG_MISMATCH
    early = await _refused(lambda: client.jobs.delete(job.name))
    assert (early.reason, early.metadata["state"]) == (Reason.STATE_CONFLICT, "PAUSED")

    await client.jobs.resume(job.name)
    await client.jobs.cancel(job.name)
    await _state(fleet, client, job.name, JobState.JOB_STATE_CANCELLED)
    assert (await _refused(lambda: client.jobs.pause(job.name))).reason is Reason.STATE_CONFLICT
    await client.jobs.retry(job.name)
    await client.jobs.cancel(job.name)
    await _state(fleet, client, job.name, JobState.JOB_STATE_CANCELLED)
    await client.jobs.delete(job.name)
    assert (await _refused(lambda: client.jobs.get(job.name))).reason is Reason.JOB_NOT_FOUND


async def test_jobs_are_listed_by_labels_as_they_are_written(fleet: ChaosFleet, client: Client) -> None:
    await client.fleet.drain("services/trainer")
    for job_id, labels in {
        "one": {"team": "search", "kind": "a"},
        "two": {"team": "Search"},
        "three": {"team": "search", "note": '["kind", "a"]'},
    }.items():
        spec = echo_job()
        spec.labels.update(labels)
        await client.jobs.create(spec, job_id=job_id)

    async def found(**labels: str) -> list[str]:
        return [item.name.rpartition("/")[2] for item in await client.jobs.list(labels=labels)]

    assert await found(team="search") == ["three", "one"]
    assert await found(team="Search") == ["two"]
    assert await found(team="search", kind="a") == ["one"]
    assert await found(team="nobody") == []


async def test_a_mask_says_what_an_update_changes(fleet: ChaosFleet, client: Client) -> None:
    await client.fleet.drain("services/trainer")
    spec = echo_job()
    spec.labels["a"] = "b"
    job = await client.jobs.create(spec)
    channel = open_channel(fleet.user_address)
    stub = job_grpc.JobServiceStub(channel)

    async def update(request: pb.UpdateJobRequest) -> pb.UpdateJobResponse:
        request.name = job.name
        call = stub.UpdateJob(request, metadata=fleet.bearer("admin"), timeout=10)
        return cast("pb.UpdateJobResponse", await call)

    try:
        by_presence = await update(pb.UpdateJobRequest(priority=7))
        assert (dict(by_presence.job.labels), by_presence.job.priority) == ({"a": "b"}, 7)
        cleared = pb.UpdateJobRequest(priority=9)
        cleared.update_mask.paths.append("labels")
        by_mask = await update(cleared)
        assert (dict(by_mask.job.labels), by_mask.job.priority) == ({}, 7)
        wrong = pb.UpdateJobRequest()
        wrong.update_mask.paths.append("spec")
        with pytest.raises(Exception, match="'spec' cannot be changed"):
            await update(wrong)
        with pytest.raises(Exception, match="label without name"):
            await update(pb.UpdateJobRequest(labels={" ": "x"}))
    finally:
        await channel.close()


async def test_a_drained_service_waits_and_a_lost_one_is_removed(fleet: ChaosFleet, client: Client) -> None:
    assert (await client.fleet.drain("services/trainer")).is_draining
    job = await client.jobs.create(echo_job(steps=2))
    assert (await client.jobs.get(job.name)).state == JobState.JOB_STATE_PENDING
    assert (await client.fleet.get("services/trainer")).is_draining
    assert not (await client.fleet.undrain("services/trainer")).is_draining
    ended, _ = await fleet.finish(client, job.name)
    assert ended.state == JobState.JOB_STATE_SUCCEEDED

    held = await _refused(lambda: client.fleet.remove("services/trainer"))
    assert held.reason is Reason.STATE_CONFLICT
    await fleet.stop("trainer")

    async def is_lost() -> bool:
        service = await client.fleet.get("services/trainer")
        return service.state == ServiceState.SERVICE_STATE_LOST

    await fleet.until(is_lost, "the trainer is lost")
    await client.fleet.remove("services/trainer")
    gone = await _refused(lambda: client.fleet.get("services/trainer"))
    assert gone.reason is Reason.SERVICE_NOT_FOUND
    assert await client.fleet.list() == ()


async def test_a_watch_from_before_the_oldest_event_is_told_where_it_begins(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store.db")
    kernel = Kernel(store, Policy(lease_term_seconds=1e9))  # the times of the samples are long past
    running = asyncio.ensure_future(kernel.run())
    await kernel.ready()
    await kernel.submit(samples.attached(0))
    await kernel.submit(replace(samples.submit(0), spec=b"", resolved_spec=b""))
    attempt = await kernel.observe(lambda world: world.live_attempt("uid-of-job"))
    assert attempt is not None
    for number in range(1, 11):
        await kernel.submit(samples.events(0, attempt, number))
    cut = await kernel.read(store.beyond_bounds, "uid-of-job", events=5, size=1 << 20)
    assert cut is not None
    through, dropped = cut
    await kernel.submit(
        HistoryTrimmed(
            at=kernel.moment(), job_uid="uid-of-job", through_sequence=through, dropped_bytes=dropped
        )
    )
    principal_of_call.set(Principal(name="tester", role=Role.ADMIN))
    servicer = JobServicer(kernel, cast("Any", None), cast("Any", None))  # only its store is asked

    async def first_events(after: int) -> list[int]:
        request = pb.WatchJobRequest(name="projects/default/jobs/job", after_sequence=after)
        async for message in servicer.WatchJob(request, cast("RpcContext", None)):
            if message.WhichOneof("content") == "events":
                return [event.sequence for event in message.events.events]
        return []

    compacted = await _refused(lambda: first_events(0))
    assert (compacted.reason, compacted.code) == (Reason.HISTORY_COMPACTED, "OUT_OF_RANGE")
    oldest = int(compacted.metadata["oldest_sequence"])
    assert oldest == through + 1
    read = await first_events(oldest - 1)
    assert read[0] == oldest
    assert len(read) == 5
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    store.close()
