"""Calls carry a token, a request id and a deadline, and fail with a reason."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

from tunefleet.deployment.v1.deployment_pb2 import DeploymentSpec
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.job_service_pb2 import CreateJobRequest, ListJobsRequest
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.job.v1.state_pb2 import CheckpointRef, JobState
from tunefleet_client import FailedPrecondition, connect
from tunefleet_client.calls import Backoff
from tunefleet_client.testing import FakeCoordinator
from tunefleet_core.errors import FieldViolation, Reason, TunefleetError

QUICK = Backoff(first_seconds=0.001, most_seconds=0.002)


async def test_a_client_finds_the_coordinator_through_its_state_folder(
    fake: FakeCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    fake.write_state(tmp_path / "up")
    async with connect(state_folder=tmp_path / "up") as client:
        created = await client.jobs.create(JobSpec(name="tickets"))
        assert created.name == "projects/default/jobs/tickets-ab12"
        assert (await client.jobs.get("tickets-ab12")).uid == created.uid


async def test_every_mutation_carries_a_request_id_of_its_own(fake: FakeCoordinator) -> None:
    async with connect(fake.address, fake.token) as client:
        await client.jobs.create(JobSpec(name="a"))
        await client.jobs.cancel("a-ab12")
        await client.deployments.create(DeploymentSpec(model="models/m"))
        await client.deployments.delete("m")
    ids = [getattr(request, "request_id") for request in fake.requests]  # noqa: B009 - of four messages
    assert len({uuid.UUID(item) for item in ids}) == 4


async def test_unavailable_is_tried_again_with_the_same_request_id(fake: FakeCoordinator) -> None:
    fake.unavailable_calls = 3
    async with connect(fake.address, fake.token, backoff=QUICK) as client:
        await client.jobs.create(JobSpec(name="a"))
    creates = [item for item in fake.requests if isinstance(item, CreateJobRequest)]
    assert len(creates) == 4
    assert len({item.request_id for item in creates}) == 1


async def test_tries_are_bounded(fake: FakeCoordinator) -> None:
    fake.unavailable_calls = 100
    async with connect(fake.address, fake.token, backoff=QUICK) as client:
        with pytest.raises(TunefleetError) as caught:
            await client.jobs.list()
    assert caught.value.reason is Reason.UNAVAILABLE
    assert len(fake.requests) == QUICK.tries


async def test_an_answer_with_a_reason_is_raised_whole_and_not_repeated(fake: FakeCoordinator) -> None:
    fake.error = TunefleetError(
        Reason.DATA_INVALID,
        "Row 3 of train.jsonl has no messages.",
        hint="Add them.",
        metadata={"line": "3"},
        violations=[FieldViolation(field="train.data.train[0]", description="line 3: no messages")],
    )
    async with connect(fake.address, fake.token) as client:
        with pytest.raises(TunefleetError) as caught:
            await client.jobs.plan(JobSpec(name="a"))
    error = caught.value
    assert (error.reason, error.message, error.hint) == (
        Reason.DATA_INVALID,
        "Row 3 of train.jsonl has no messages.",
        "Add them.",
    )
    assert error.metadata == {"line": "3"}
    assert error.violations[0].field == "train.data.train[0]"
    assert len(fake.requests) == 1


async def test_a_coordinator_that_is_gone_says_what_to_start() -> None:
    async with FakeCoordinator() as fake:
        address = fake.address
    async with connect(address, "token", backoff=QUICK) as client:
        with pytest.raises(TunefleetError) as caught:
            await client.jobs.list()
    assert caught.value.message == f"The coordinator at {address} does not answer."
    assert caught.value.hint == "tunefleet up, or tunefleet doctor"


async def test_a_wrong_token_is_a_token_error(fake: FakeCoordinator) -> None:
    async with connect(fake.address, "wrong") as client:
        with pytest.raises(TunefleetError) as caught:
            await client.jobs.list()
    assert caught.value.reason is Reason.TOKEN_INVALID


async def test_past_the_deadline_a_call_ends_with_time_limit(fake: FakeCoordinator) -> None:
    fake.delay_seconds = 30.0
    async with connect(fake.address, fake.token) as client:
        jobs = client.jobs
        with pytest.raises(TunefleetError) as caught:
            await jobs._connection.unary(jobs._stub.ListJobs, ListJobsRequest(), deadline_seconds=0.2)
    assert caught.value.reason is Reason.TIME_LIMIT


async def test_plaintext_to_another_machine_is_refused_before_any_call() -> None:
    with pytest.raises(TunefleetError, match="without TLS"):
        async with connect("10.1.2.3:7000", "token"):
            raise AssertionError("must not connect")


async def test_a_missing_certificate_authority_is_named(tmp_path: Path) -> None:
    with pytest.raises(TunefleetError, match="certificate authority"):
        async with connect("10.1.2.3:7000", "token", ca=tmp_path / "none.pem"):
            raise AssertionError("must not connect")


async def test_lists_walk_every_page_and_stop_at_the_limit(fake: FakeCoordinator) -> None:
    for number in range(1203):
        name = f"projects/default/jobs/j{number}"
        fake.jobs[name] = Job(name=name, state=JobState.JOB_STATE_PENDING)
    async with connect(fake.address, fake.token) as client:
        everything = await client.jobs.list()
        some = await client.jobs.list(limit=501)
        none = await client.jobs.list(states=[JobState.JOB_STATE_FAILED])
    assert [job.name for job in everything] == list(fake.jobs)
    assert len(some) == 501
    assert none == ()


async def test_checkpoints_are_listed_by_short_name(fake: FakeCoordinator) -> None:
    name = "projects/default/jobs/a"
    fake.jobs[name] = Job(name=name)
    fake.checkpoints[name] = [CheckpointRef(step=step) for step in (30, 20, 10)]
    async with connect(fake.address, fake.token) as client:
        assert [item.step for item in await client.jobs.checkpoints("jobs/a")] == [30, 20, 10]


async def test_a_diagnosis_is_asked_for_by_short_name(fake: FakeCoordinator) -> None:
    fake.jobs["projects/default/jobs/a"] = Job(name="projects/default/jobs/a")
    fake.diagnosis.summary = "It learns."
    async with connect(fake.address, fake.token) as client:
        assert (await client.jobs.diagnose("a")).summary == "It learns."


@pytest.mark.parametrize("name", ["models/a", "a/b/c", "", "projects//jobs/a", "projects/p/models/a"])
async def test_a_name_of_another_noun_is_refused_here(fake: FakeCoordinator, name: str) -> None:
    async with connect(fake.address, fake.token) as client:
        with pytest.raises(TunefleetError) as caught:
            await client.jobs.get(name)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert fake.requests == []


async def test_cancelling_the_caller_cancels_the_call(fake: FakeCoordinator) -> None:
    fake.unavailable_calls = 100
    slow = Backoff(first_seconds=20, most_seconds=20)
    async with connect(fake.address, fake.token, backoff=slow) as client:
        task = asyncio.ensure_future(client.jobs.list(limit=1))
        await asyncio.wait([task], timeout=0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_closed_client_says_so(fake: FakeCoordinator) -> None:
    async with connect(fake.address, fake.token) as client:
        pass
    for work in (client.jobs.list(), anext(client.jobs.watch("a")), anext(client.chat("m", "hello"))):
        with pytest.raises(FailedPrecondition, match="closed"):
            await work


async def test_closing_ends_calls_under_way_with_an_error_and_not_as_if_they_were_cancelled(
    fake: FakeCoordinator,
) -> None:
    name = "projects/default/jobs/a"
    fake.jobs[name] = Job(name=name, state=JobState.JOB_STATE_RUNNING)
    async with connect(fake.address, fake.token) as client:
        changes = client.jobs.watch("a")
        await anext(changes)
        watching = asyncio.ensure_future(anext(changes))
        fake.delay_seconds = 30.0
        calling = asyncio.ensure_future(client.jobs.list())
        await asyncio.sleep(0.2)
    done, _ = await asyncio.wait([watching, calling], timeout=20)
    assert len(done) == 2
    for task in done:
        assert isinstance(task.exception(), FailedPrecondition)
