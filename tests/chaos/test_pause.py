"""Pause means: state saved to the step, device free for others, and an end as if nothing had been."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable, Sequence

import pytest
from chaos_fleet import ChaosFleet, assert_whole, echo_job

from tunefleet.job.v1.event_pb2 import AttemptOutcome, DeviceRelease, JobEvent
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_client import Client
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.worker.marker import marked_processes

pytestmark = [pytest.mark.chaos]

_STEPS = 40
_SETTLED = frozenset({JobState.JOB_STATE_PAUSED, JobState.JOB_STATE_SUCCEEDED})
_PAUSED = AttemptOutcome.ATTEMPT_OUTCOME_PAUSED


async def _paused(fleet: ChaosFleet, client: Client, job: Job) -> Job:
    """Wait until a job is PAUSED and return it."""

    async def is_paused() -> bool:
        return (await client.jobs.get(job.name)).state == JobState.JOB_STATE_PAUSED

    await fleet.until(is_paused, f"{job.name} is paused")
    return await client.jobs.get(job.name)


async def _pause_unless_it_ends_first(fleet: ChaosFleet, client: Client, job: Job) -> bool:
    """Pause a job that may be in its last step: success stays one. Return whether it is PAUSED."""
    try:
        await client.jobs.pause(job.name)
    except TunefleetError as error:
        if error.reason is not Reason.STATE_CONFLICT:
            raise

    async def is_settled() -> bool:
        return (await client.jobs.get(job.name)).state in _SETTLED

    await fleet.until(is_settled, f"{job.name} is paused or at its end")
    return (await client.jobs.get(job.name)).state == JobState.JOB_STATE_PAUSED


async def _another_uses_the_device(fleet: ChaosFleet, client: Client) -> None:
    """Run a short job to its end on the one device there is."""
    job = await client.jobs.create(echo_job(steps=3, step_seconds=0.0, seed=77))
    ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)


def _outcomes(events: Sequence[JobEvent]) -> list[AttemptOutcome.ValueType]:
    return [event.attempt_ended.outcome for event in events if event.HasField("attempt_ended")]


def _steps(events: Sequence[JobEvent]) -> list[int]:
    return [event.metrics.step for event in events if event.HasField("metrics")]


@pytest.mark.seeds(6)
async def test_a_run_paused_at_any_moment_ends_as_if_it_had_not_been(
    fleet: ChaosFleet, seed: int, measure: Callable[[str, float], None]
) -> None:
    rng = random.Random(seed)
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=_STEPS, every_steps=7, seed=seed, step_seconds=0.03))
        pauses = 1 + seed % 2
        for _ in range(pauses):
            await asyncio.sleep(rng.uniform(0.0, 1.2))  # from before there is any process to its last steps
            run, asked = fleet.run_of(job), fleet.now()
            if not await _pause_unless_it_ends_first(fleet, client, job):
                break
            measure("pause to device free", fleet.now() - asked)
            assert run is None or not marked_processes(run.mark), "the state promises that they are gone"
            await _another_uses_the_device(fleet, client)
            assert (await client.jobs.get(job.name)).state == JobState.JOB_STATE_PAUSED
            await client.jobs.resume(job.name)
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert _steps(events) == list(range(1, _STEPS + 1)), "not a step was lost or done twice"
    assert set(_outcomes(events)[:-1]) <= {_PAUSED}
    releases = [event.device_released for event in events if event.HasField("device_released")]
    assert all(item.device_release == DeviceRelease.DEVICE_RELEASE_BY_EXIT for item in releases)


@pytest.mark.seeds(4)
@pytest.mark.parametrize(
    "victim", ["rank", *(pytest.param(name, marks=pytest.mark.slow) for name in ("trainer", "coordinator"))]
)
async def test_a_kill_while_it_saves_leaves_it_paused_from_its_newest_checkpoint(
    fleet: ChaosFleet, seed: int, victim: str
) -> None:
    rng = random.Random(f"{victim}{seed}")
    async with fleet.client() as client:
        spec = echo_job(steps=_STEPS, every_steps=7, seed=seed, step_seconds=0.03, save_seconds=0.3)
        job = await client.jobs.create(spec)
        async with fleet.watching(client, job.name) as timeline:
            step = rng.randrange(1, _STEPS - 5)
            await timeline.wait_for(lambda event: event.metrics.step > step)
        run = fleet.run_of(job)
        assert run is not None
        await client.jobs.pause(job.name)
        await asyncio.sleep(rng.uniform(0.0, 0.4))
        if victim == "rank":
            if (pid := run.pids().get("rank")) is not None:  # else it has saved and gone already
                os.kill(pid, signal.SIGKILL)
        else:
            await fleet.kill(victim)
            await asyncio.sleep(rng.choice([0.0, fleet.lease_seconds * 1.5]))
            await (fleet.start_coordinator() if victim == "coordinator" else fleet.start_trainer())
        paused = await _paused(fleet, client, job)
        if victim == "trainer":  # given up by its lease: the host saves and ends when nobody comes
            await fleet.until(lambda: not marked_processes(run.mark), "the host of the dead trainer ends")
        assert not marked_processes(run.mark)
        committed = [item.step for item in await client.jobs.checkpoints(job.name)]
        assert paused.checkpoint.step == max(committed, default=0)
        await _another_uses_the_device(fleet, client)
        await client.jobs.resume(job.name)
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert ended.attempt == 2


@pytest.mark.slow  # another moment of a pause
async def test_a_run_that_still_loads_is_paused_without_waiting_for_it(fleet: ChaosFleet) -> None:
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=5, load_seconds=30.0, stubborn=True))
        await fleet.run_begun(job)
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(lambda event: event.HasField("phase_changed"))
        asked = fleet.now()
        await client.jobs.pause(job.name)
        paused = await _paused(fleet, client, job)
        assert fleet.now() - asked < 20, "loading takes longer"
        assert not paused.HasField("checkpoint")
        await client.jobs.cancel(job.name)
        ended, events = await fleet.finish(client, job.name)
    assert ended.state == JobState.JOB_STATE_CANCELLED
    assert_whole(events)
    assert _outcomes(events) == [_PAUSED]


@pytest.mark.slow  # another end of a pause
async def test_a_pause_that_takes_long_can_be_cancelled(fleet: ChaosFleet) -> None:
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=400, step_seconds=0.02, save_seconds=60.0))
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(lambda event: event.metrics.step > 1)
        run = fleet.run_of(job)
        assert run is not None
        assert (await client.jobs.pause(job.name)).state == JobState.JOB_STATE_PAUSING
        await asyncio.sleep(0.3)
        await client.jobs.cancel(job.name)
        ended, events = await fleet.finish(client, job.name)
    assert ended.state == JobState.JOB_STATE_CANCELLED
    assert not marked_processes(run.mark)
    assert_whole(events)


@pytest.mark.slow  # three more runs
async def test_a_failed_job_is_retried_where_it_was_and_a_cancelled_one_from_its_start(
    fleet: ChaosFleet,
) -> None:
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=_STEPS, every_steps=5, step_seconds=0.02))
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(lambda event: event.HasField("checkpoint_committed"))
        await client.jobs.cancel(job.name)
        await fleet.finish(client, job.name)
        again = await client.jobs.retry(job.name)
        assert again.state in (JobState.JOB_STATE_PENDING, JobState.JOB_STATE_PREPARING)
        async with fleet.watching(client, job.name) as timeline:
            started = await timeline.wait_for(lambda event: event.attempt_started.fencing_number == 2)
        assert started.attempt_started.resume_from.step >= 5
        await client.jobs.cancel(job.name)
        await fleet.finish(client, job.name)
        await client.jobs.retry(job.name, from_start=True)
        ended, events = await fleet.finish(client, job.name)
        await fleet.assert_succeeded(ended, events)
        third = next(event for event in events if event.attempt_started.fencing_number == 3)
        assert not third.attempt_started.HasField("resume_from")
        await client.jobs.delete(job.name)
        assert [item.name for item in await client.jobs.list()] == []
        assert len(await client.models.list()) == 1
