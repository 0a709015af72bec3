"""A trainer that is stopped in order saves what it runs and gives it back; nothing is lost or counted."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable, Sequence

import pytest
from chaos_fleet import ChaosFleet, assert_whole, echo_job

from tunefleet.fleet.v1.fleet_pb2 import ServiceState
from tunefleet.job.v1.event_pb2 import AttemptOutcome, DeviceRelease, JobEvent, RunPhase
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.worker.marker import marked_processes

pytestmark = [pytest.mark.chaos]

_STEPS = 40
_INTERRUPTED = AttemptOutcome.ATTEMPT_OUTCOME_INTERRUPTED
_SAVING = RunPhase.RUN_PHASE_SAVING


def _is_step_above(step: int) -> Callable[[JobEvent], bool]:
    return lambda event: event.metrics.step > step


def _outcomes(events: Sequence[JobEvent]) -> list[AttemptOutcome.ValueType]:
    return [event.attempt_ended.outcome for event in events if event.HasField("attempt_ended")]


def _steps(events: Sequence[JobEvent]) -> list[int]:
    return [event.metrics.step for event in events if event.HasField("metrics")]


def _reasons(events: Sequence[JobEvent]) -> list[str]:
    return [event.state_changed.reason for event in events if event.HasField("state_changed")]


@pytest.mark.seeds(6)
async def test_a_trainer_stopped_at_any_moment_loses_no_step(
    fleet: ChaosFleet, seed: int, measure: Callable[[str, float], None]
) -> None:
    rng = random.Random(seed)
    async with fleet.client() as client:
        # One attempt, so that a single counted failure fails it; no checkpoint but those of stops.
        spec = echo_job(steps=_STEPS, every_steps=1000, seed=seed, step_seconds=0.03, max_attempts=1)
        job = await client.jobs.create(spec)
        for _ in range(2):
            await asyncio.sleep(rng.uniform(0.0, 1.0))  # from before there is any process to its last steps
            run, asked = fleet.run_of(job), fleet.now()
            assert await fleet.stop("trainer") == 0
            measure("trainer stopped with a run", fleet.now() - asked)
            assert run is None or not marked_processes(run.mark)
            assert fleet.assignments() == [], "everything was given back and told"
            await fleet.start_trainer()
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert _steps(events) == list(range(1, _STEPS + 1)), "not a step was lost or done twice"
    assert set(_outcomes(events)[:-1]) <= {_INTERRUPTED}
    releases = [event.device_released for event in events if event.HasField("device_released")]
    assert all(item.device_release == DeviceRelease.DEVICE_RELEASE_BY_EXIT for item in releases)


async def test_another_trainer_goes_on_with_what_a_stopped_one_gives_back(bare_fleet: ChaosFleet) -> None:
    fleet = bare_fleet
    await fleet.start_coordinator()
    await fleet.start_trainer("trainer-a")  # first by name, so it gets the job
    await fleet.start_trainer("trainer-b")
    async with fleet.client() as client:
        spec = echo_job(steps=_STEPS, every_steps=1000, step_seconds=0.03, save_seconds=2.0)
        job = await client.jobs.create(spec)
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(_is_step_above(3))
            stopping = asyncio.create_task(fleet.stop("trainer-a"))

            async def is_stopping() -> bool:
                service = (await fleet.services())["trainer-a"]
                return service.is_stopping and service.state == ServiceState.SERVICE_STATE_ATTACHED

            await fleet.until(is_stopping, "it says so while it saves")
            assert await stopping == 0
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert ended.service == "services/trainer-b"
    assert _steps(events) == list(range(1, _STEPS + 1))
    assert _outcomes(events)[0] == _INTERRUPTED


async def test_a_run_that_hangs_holds_a_stop_for_no_longer_than_its_bound(bare_fleet: ChaosFleet) -> None:
    fleet = bare_fleet
    await fleet.start_coordinator()
    await fleet.start_trainer("trainer", "--stop-seconds", "1")
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=60, every_steps=10, step_seconds=0.05, max_attempts=1))
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(lambda event: event.HasField("checkpoint_committed"))
        run = fleet.run_of(job)
        assert run is not None
        os.kill(run.pids()["rank"], signal.SIGSTOP)
        assert await fleet.stop("trainer") == 0
        assert not marked_processes(run.mark)
        waiting = await client.jobs.get(job.name)
        assert waiting.state == JobState.JOB_STATE_PENDING
        assert waiting.checkpoint.step >= 10
        await fleet.start_trainer()
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert _outcomes(events)[0] == _INTERRUPTED
    assert any("was not saved within 1 s" in reason for reason in _reasons(events))


async def test_a_second_signal_stops_at_once_and_the_next_life_goes_on(bare_fleet: ChaosFleet) -> None:
    fleet = bare_fleet
    fleet.lease_seconds = 6.0  # what the next life needs to start where cores are scarce
    await fleet.start_coordinator()
    await fleet.start_trainer("trainer", "--stop-seconds", "600")
    async with fleet.client() as client:
        spec = echo_job(steps=_STEPS, every_steps=1000, step_seconds=0.05, save_seconds=4.0, max_attempts=1)
        job = await client.jobs.create(spec)
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(_is_step_above(3))
            os.kill(fleet.pid("trainer"), signal.SIGTERM)
            saving = await timeline.wait_for(lambda event: event.phase_changed.phase == _SAVING)
            assert saving.attempt == 1
            assert await fleet.stop("trainer") == 0  # the second
            assert not any(event.HasField("attempt_ended") for event in timeline.events)
        assert len(fleet.assignments()) == 1, "it was not given back yet"
        await fleet.start_trainer()
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert _steps(events) == list(range(1, _STEPS + 1)), "its host had saved meanwhile"
    assert _outcomes(events)[0] == _INTERRUPTED


@pytest.mark.slow  # a stop in which nothing can be saved
async def test_a_signal_to_every_process_at_once_loses_steps_but_counts_no_failure(fleet: ChaosFleet) -> None:
    """As systemd does by default; a terminal's Ctrl-C reaches none of those that work."""
    async with fleet.client() as client:
        job = await client.jobs.create(
            echo_job(steps=80, every_steps=10, step_seconds=0.03, save_seconds=0.2, max_attempts=1)
        )
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(lambda event: event.HasField("checkpoint_committed"))
            run = fleet.run_of(job)
            assert run is not None
            for pid in (fleet.pid("trainer"), *run.pids().values()):
                os.kill(pid, signal.SIGTERM)
            async with asyncio.timeout(60):
                await timeline.wait_for(lambda event: event.HasField("attempt_ended"))
        await fleet.until(lambda: fleet.assignments() == [], "it was given back")
        await fleet.start_trainer()
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert _outcomes(events)[0] == _INTERRUPTED


@pytest.mark.slow  # another fault in the same moment
async def test_a_stop_without_its_coordinator_is_told_by_the_next_life(bare_fleet: ChaosFleet) -> None:
    fleet = bare_fleet
    await fleet.start_coordinator()
    await fleet.start_trainer("trainer", "--stop-seconds", "2")
    async with fleet.client() as client:
        spec = echo_job(steps=_STEPS, every_steps=1000, step_seconds=0.03, max_attempts=1)
        job = await client.jobs.create(spec)
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(_is_step_above(3))
    run = fleet.run_of(job)
    assert run is not None
    await fleet.kill("coordinator")
    assert await fleet.stop("trainer") == 0
    assert not marked_processes(run.mark)
    assert len(fleet.assignments()) == 1, "what it saved is kept"
    await fleet.start_coordinator()
    await fleet.start_trainer()
    async with fleet.client() as client:
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert _steps(events) == list(range(1, _STEPS + 1))


@pytest.mark.slow  # as before there were orderly stops
async def test_with_no_time_to_save_a_run_goes_on_and_is_adopted(bare_fleet: ChaosFleet) -> None:
    fleet = bare_fleet
    fleet.lease_seconds = 6.0
    await fleet.start_coordinator()
    await fleet.start_trainer("trainer", "--stop-seconds", "0")
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=80, every_steps=1000, step_seconds=0.05))
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(_is_step_above(3))
            assert await fleet.stop("trainer") == 0
        await fleet.start_trainer()
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert ended.attempt == 1
    assert_whole(events)
