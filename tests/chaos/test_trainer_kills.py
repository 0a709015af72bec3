"""SIGKILL and SIGSTOP of the trainer service: adopted within its lease, fenced after it."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Sequence

import grpc
import grpc.aio
import pytest
from chaos_fleet import ChaosFleet, echo_job, slack

from tunefleet.artifact.v1 import artifact_service_pb2_grpc as artifact_grpc
from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind, File, Lineage, Manifest
from tunefleet.artifact.v1.artifact_service_pb2 import CommitManifestRequest
from tunefleet.fleet.v1 import fleet_service_pb2_grpc as fleet_grpc
from tunefleet.fleet.v1.fleet_service_pb2 import ReportEventsRequest
from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent, LogLines
from tunefleet.job.v1.job_pb2 import Job
from tunefleet_core.artifacts import manifest_digest
from tunefleet_core.errors import Reason
from tunefleet_core.rpc import error_from_rpc, open_channel
from tunefleet_core.worker.marker import marked_processes

pytestmark = [pytest.mark.chaos]

_STEPS = 80


def _is_metrics_of(attempt: int, step: int = 0) -> Callable[[JobEvent], bool]:
    return lambda event: event.attempt == attempt and event.metrics.step > step


def _is_start_of(attempt: int) -> Callable[[JobEvent], bool]:
    return lambda event: event.attempt == attempt and event.HasField("attempt_started")


@pytest.mark.seeds(6)
async def test_trainer_restarted_within_its_lease_adopts_the_run(
    bare_fleet: ChaosFleet, seed: int, measure: Callable[[str, float], None]
) -> None:
    fleet = bare_fleet
    # A service needs a second or two to start where cores are scarce; the lease has to outlast that.
    fleet.lease_seconds = 6.0
    await fleet.start_coordinator()
    await fleet.start_trainer()
    rng = random.Random(seed)
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=_STEPS, every_steps=5, seed=seed, step_seconds=0.04))
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(_is_metrics_of(1, rng.randrange(_STEPS // 2)))
            await fleet.kill("trainer")
            killed, seen = fleet.now(), max(event.metrics.step for event in timeline.events)
            await fleet.start_trainer()
            await timeline.wait_for(_is_metrics_of(1, seen))
            measure("trainer killed to adopted run heard again", fleet.now() - killed)
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert ended.attempt == 1
    assert [event.metrics.step for event in events if event.HasField("metrics")] == list(range(1, _STEPS + 1))


@pytest.mark.slow  # another moment of the same death
@pytest.mark.seeds(8)
async def test_trainer_killed_at_any_moment_of_a_start_loses_no_job(
    bare_fleet: ChaosFleet, seed: int
) -> None:
    fleet = bare_fleet
    fleet.lease_seconds = 6.0
    await fleet.start_coordinator()
    await fleet.start_trainer("trainer", "--no-warm")  # a start takes longer, so more of it can be hit
    rng = random.Random(seed)
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=10, every_steps=5, seed=seed))
        await fleet.until(lambda: fleet.assignments(), "the attempt is written down")
        delay = rng.uniform(0.0, 0.8)
        begun = fleet.now()
        await fleet.until(lambda: fleet.now() - begun >= delay, "the moment has come")
        await fleet.kill("trainer")
        await fleet.start_trainer()
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert ended.attempt <= 2


@pytest.mark.seeds(6)
async def test_lost_trainer_is_replaced_and_its_revival_is_fenced(
    bare_fleet: ChaosFleet, seed: int, measure: Callable[[str, float], None]
) -> None:
    fleet = bare_fleet
    await _start_two_trainers(fleet)
    rng = random.Random(seed)
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=_STEPS, every_steps=5, seed=seed, step_seconds=0.06))
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(_is_metrics_of(1, rng.randrange(5, _STEPS // 4)))
            first = timeline.job.service.removeprefix("services/")
            await fleet.kill(first)
            killed = fleet.now()
            await timeline.wait_for(_is_start_of(2))
            replaced = fleet.now() - killed
            measure("trainer killed to attempt 2 assigned elsewhere", replaced)
            assert replaced <= 1.5 * fleet.lease_seconds * slack()
            await timeline.wait_for(_is_metrics_of(2))
            await fleet.start_trainer(first)  # the zombie is back
            await _assert_fenced(fleet, job, fencing_number=1)
            await fleet.until(lambda: not fleet.runs(first), "the old attempt is forgotten")
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert ended.attempt == 2
    assert ended.service != f"services/{first}"
    _assert_nothing_of_attempt_1_after_its_end(events)


@pytest.mark.seeds(4)
@pytest.mark.parametrize(
    "with_worker",
    [
        pytest.param(True, id="trainer-and-worker"),
        pytest.param(False, id="trainer-only", marks=pytest.mark.slow),
    ],
)
async def test_stopped_trainer_that_goes_on_after_its_lease_is_fenced(
    bare_fleet: ChaosFleet, seed: int, with_worker: bool
) -> None:
    fleet = bare_fleet
    await _start_two_trainers(fleet)
    rng = random.Random(seed)
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=_STEPS, every_steps=5, seed=seed, step_seconds=0.06))
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(_is_metrics_of(1, rng.randrange(5, _STEPS // 4)))
            first = timeline.job.service.removeprefix("services/")
            run = fleet.run_of(job, trainer=first)
            assert run is not None
            stopped = [fleet.pid(first), *(run.pids().values() if with_worker else ())]
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            await timeline.wait_for(_is_metrics_of(2))
            for pid in stopped:
                _continue(pid)
            await _assert_fenced(fleet, job, fencing_number=1)
            await fleet.until(lambda: not marked_processes(run.mark), "the old attempt's processes are gone")
            await fleet.until(lambda: not fleet.runs(first), "the old attempt is forgotten")
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert ended.attempt == 2
    _assert_nothing_of_attempt_1_after_its_end(events)
    assert (await fleet.services())[first].holds == []


@pytest.mark.slow
async def test_trainer_stopped_for_less_than_its_lease_keeps_its_run(fleet: ChaosFleet) -> None:
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=40, step_seconds=0.04))
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(_is_metrics_of(1, 3))
            os.kill(fleet.pid("trainer"), signal.SIGSTOP)
            since = fleet.now()
            await fleet.until(
                lambda: fleet.now() - since > fleet.lease_seconds / 2, "half a lease has passed"
            )
            os.kill(fleet.pid("trainer"), signal.SIGCONT)
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert ended.attempt == 1


async def _start_two_trainers(fleet: ChaosFleet) -> None:
    await fleet.start_coordinator()
    await fleet.start_trainer("trainer-a")
    await fleet.start_trainer("trainer-b")


async def _assert_fenced(fleet: ChaosFleet, job: Job, *, fencing_number: int) -> None:
    """Act as the superseded attempt would: nothing it sends is taken."""
    manifest = _some_manifest(fleet)
    channel = open_channel(fleet.service_address)
    try:
        artifacts = artifact_grpc.ArtifactServiceStub(channel)
        commit = CommitManifestRequest(
            job_uid=job.uid, attempt=1, fencing_number=fencing_number, manifest=manifest
        )
        await _assert_call_fenced(
            artifacts.CommitManifest(commit, metadata=fleet.bearer("service"), timeout=10)
        )
        services = fleet_grpc.FleetServiceStub(channel)
        event = JobEvent(source_sequence=1, log_lines=LogLines(lines=["I am not dead"]))
        report = ReportEventsRequest(
            job_uid=job.uid, attempt=1, fencing_number=fencing_number, events=[event]
        )
        await _assert_call_fenced(services.ReportEvents(report, metadata=fleet.bearer("service"), timeout=10))
    finally:
        await channel.close()


async def _assert_call_fenced(call: grpc.aio.UnaryUnaryCall[object, object]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    assert raised.value.code() is grpc.StatusCode.ABORTED
    assert error_from_rpc(raised.value, "the coordinator").reason is Reason.FENCED


def _some_manifest(fleet: ChaosFleet) -> Manifest:
    """Return a manifest whose blobs the store has, so that only the fence can refuse it."""
    blob = next(path for path in (fleet.state / "artifacts").glob("sha256/*/*") if len(path.name) == 64)
    manifest = Manifest(
        kind=ArtifactKind.ARTIFACT_KIND_CHECKPOINT,
        step=1_000_000,
        files=[File(path="state.json", size_bytes=blob.stat().st_size, sha256=blob.name)],
        lineage=Lineage(attempt=1),
    )
    manifest.digest = manifest_digest(manifest)
    return manifest


def _assert_nothing_of_attempt_1_after_its_end(events: Sequence[JobEvent]) -> None:
    end = next(
        index for index, event in enumerate(events) if event.attempt == 1 and event.HasField("attempt_ended")
    )
    assert events[end].attempt_ended.outcome == AttemptOutcome.ATTEMPT_OUTCOME_LOST
    late = [event for event in events[end + 1 :] if event.attempt == 1 and event.source_sequence]
    assert late == []
    commits = [event.checkpoint_committed.checkpoint for event in events[end + 1 :]]
    assert [item for item in commits if item.attempt == 1] == []


def _continue(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return  # a worker whose lease is over may have ended already
