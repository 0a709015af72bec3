"""A watch hands out every event once, whatever happens to the connection."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from tunefleet.job.v1.event_pb2 import JobEvent, Metrics
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_client import Client, connect, is_terminal
from tunefleet_client.calls import Backoff
from tunefleet_client.testing import FakeCoordinator
from tunefleet_core.errors import Reason, TunefleetError

QUICK = Backoff(first_seconds=0.01, most_seconds=0.05)
NAME = "projects/default/jobs/tickets-ab12"


def add_job(fake: FakeCoordinator, state: JobState.ValueType = JobState.JOB_STATE_RUNNING) -> None:
    fake.jobs[NAME] = Job(name=NAME, uid="u", state=state, attempt=1)


def step(number: int) -> JobEvent:
    return JobEvent(attempt=1, source_sequence=number, metrics=Metrics(step=number))


async def follow(client: Client, after_sequence: int = 0) -> tuple[list[int], list[Job]]:
    sequences: list[int] = []
    snapshots: list[Job] = []
    async for change in client.jobs.watch(NAME, after_sequence):
        if change.event is not None:
            sequences.append(change.event.sequence)
        if change.snapshot is not None:
            snapshots.append(change.snapshot)
    return sequences, snapshots


@pytest.mark.parametrize("cut_after", [1, 2, 7, 10])
async def test_a_stream_cut_ten_times_hands_out_every_event_once(
    fake: FakeCoordinator, cut_after: int
) -> None:
    add_job(fake)
    fake.cuts, fake.cut_after = 10, cut_after
    await fake.append(NAME, *(step(number) for number in range(1, 60)))

    async def work() -> None:
        for number in range(60, 120):
            await fake.append(NAME, step(number))
            await asyncio.sleep(0.002)
        await fake.move(NAME, JobState.JOB_STATE_SUCCEEDED)

    async with (
        connect(fake.address, fake.token, backoff=QUICK) as client,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(work())
        sequences, snapshots = await follow(client)
    assert fake.cuts == 0
    assert sequences == list(range(1, 121))
    assert snapshots[-1].state == JobState.JOB_STATE_SUCCEEDED
    assert not is_terminal(snapshots[0])


async def test_a_coordinator_that_restarts_ten_times_loses_no_event() -> None:
    async with FakeCoordinator() as fake:
        add_job(fake)

        async def work() -> None:
            for number in range(1, 51):
                await fake.append(NAME, step(number))
                if number % 5 == 0:
                    await fake.stop()
                    await asyncio.sleep(0.03)
                    await fake.start()
                await asyncio.sleep(0.005)
            await fake.move(NAME, JobState.JOB_STATE_FAILED)

        async with (
            connect(fake.address, fake.token, backoff=QUICK) as client,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(work())
            sequences, snapshots = await follow(client)
    assert sequences == list(range(1, 52))
    assert snapshots[-1].state == JobState.JOB_STATE_FAILED


async def test_a_watch_begins_after_the_given_sequence(fake: FakeCoordinator) -> None:
    add_job(fake, JobState.JOB_STATE_SUCCEEDED)
    await fake.append(NAME, *(step(number) for number in range(1, 11)))
    async with connect(fake.address, fake.token) as client:
        sequences, snapshots = await follow(client, after_sequence=7)
        assert sequences == [8, 9, 10]
        assert (await follow(client, after_sequence=10))[0] == []
    assert [is_terminal(item) for item in snapshots] == [True, True]


async def test_a_finished_job_gives_its_history_and_ends(fake: FakeCoordinator) -> None:
    add_job(fake, JobState.JOB_STATE_CANCELLED)
    await fake.append(NAME, step(1))
    async with connect(fake.address, fake.token) as client:
        sequences, _ = await follow(client)
    assert sequences == [1]


async def test_an_unknown_job_is_an_error_at_once(fake: FakeCoordinator) -> None:
    async with connect(fake.address, fake.token) as client:
        with pytest.raises(TunefleetError) as caught:
            await follow(client)
    assert caught.value.reason is Reason.JOB_NOT_FOUND


async def test_a_watch_gives_up_when_the_coordinator_stays_away(fake: FakeCoordinator) -> None:
    add_job(fake)
    await fake.append(NAME, step(1))
    async with (
        connect(fake.address, fake.token, backoff=QUICK) as client,
        aclosing(client.jobs.watch(NAME, give_up_seconds=0.2)) as changes,
    ):
        assert (await anext(changes)).snapshot is not None
        assert (await anext(changes)).event is not None
        await fake.stop()
        with pytest.raises(TunefleetError) as caught:
            await anext(changes)
    assert caught.value.reason is Reason.UNAVAILABLE
    assert "does not answer" in caught.value.message


async def test_a_server_with_a_hole_in_its_history_is_not_believed(fake: FakeCoordinator) -> None:
    add_job(fake, JobState.JOB_STATE_SUCCEEDED)
    await fake.append(NAME, step(1), step(2), step(3))
    del fake.events[NAME][1]
    async with (
        connect(fake.address, fake.token, backoff=QUICK) as client,
        aclosing(client.jobs.watch(NAME, give_up_seconds=0.1)) as changes,
    ):
        assert (await anext(changes)).snapshot is not None
        assert (await anext(changes)).event is not None
        with pytest.raises(TunefleetError, match="does not send event 2"):
            await anext(changes)


async def test_heartbeats_are_not_handed_out(fake: FakeCoordinator) -> None:
    async with FakeCoordinator(heartbeat_seconds=0.01) as lively:
        add_job(lively)
        async with connect(lively.address, lively.token) as client, asyncio.TaskGroup() as group:

            async def end() -> None:
                await asyncio.sleep(0.1)
                await lively.move(NAME, JobState.JOB_STATE_SUCCEEDED)

            group.create_task(end())
            sequences, snapshots = await follow(client)
    assert sequences == [1]
    assert len(snapshots) == 2
