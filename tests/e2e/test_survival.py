"""Real training survives real kills, and comes out as if nothing had happened."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence

import pytest
from chaos_fleet import assert_whole
from local_fleet import LocalFleet, adapter_sha256, tickets_job

from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.worker.marker import marked_processes

pytestmark = [
    pytest.mark.backend,
    pytest.mark.slow,  # trains three times; kills are proven fast with echo, equal bytes by the tests of trl
    pytest.mark.chaos,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]

_STEPS = 30
_EVERY = 8
_CHECKPOINTS = (f"train.checkpoint.every_steps={_EVERY}",)


def _is_metrics_of(attempt: int, step: int = 0) -> Callable[[JobEvent], bool]:
    return lambda event: event.attempt == attempt and event.metrics.step > step


def _steps(events: Sequence[JobEvent], attempt: int) -> list[int]:
    return [
        event.metrics.step for event in events if event.attempt == attempt and event.metrics.HasField("loss")
    ]


def _losses(events: Sequence[JobEvent]) -> dict[int, float]:
    """Return the loss by step; a step that was trained twice counts as the later attempt had it."""
    return {event.metrics.step: event.metrics.loss for event in events if event.metrics.HasField("loss")}


async def test_killed_rank_resumes_and_ends_bitwise_equal_to_an_undisturbed_run(fleet: LocalFleet) -> None:
    spec = tickets_job(*_CHECKPOINTS, max_steps=_STEPS)
    async with fleet.client() as client:
        undisturbed, calm = await fleet.finish(client, (await client.jobs.create(spec)).name)
        assert undisturbed.state == JobState.JOB_STATE_SUCCEEDED

        job = await client.jobs.create(spec)
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(lambda event: event.HasField("checkpoint_committed"))
            await timeline.wait_for(_is_metrics_of(1, _EVERY + 2))
            run = fleet.run_of(job)
            assert run is not None
            os.kill(run.pids()["rank"], signal.SIGKILL)
            await timeline.wait_for(_is_metrics_of(2))
        ended, events = await fleet.finish(client, job.name)

        assert ended.state == JobState.JOB_STATE_SUCCEEDED
        assert ended.attempt == 2
        assert_whole(events)
        second = next(event.attempt_started for event in events if event.attempt_started.fencing_number == 2)
        resumed = second.resume_from.step
        assert resumed >= _EVERY
        assert _steps(events, 2) == list(range(resumed + 1, _STEPS + 1))
        assert _losses(events) == _losses(calm)
        assert await adapter_sha256(client, ended) == await adapter_sha256(client, undisturbed)


async def test_other_seed_gives_another_adapter(fleet: LocalFleet) -> None:
    """Without this, equal files would prove nothing."""
    async with fleet.client() as client:
        jobs = [await client.jobs.create(tickets_job(f"train.seed={seed}", max_steps=2)) for seed in (1, 2)]
        ended = [(await fleet.finish(client, job.name))[0] for job in jobs]
        first, second = [await adapter_sha256(client, job) for job in ended]
    assert first != second


async def test_killed_trainer_is_started_again_and_adopts_the_run(fleet: LocalFleet) -> None:
    async with fleet.client() as client:
        job = await client.jobs.create(tickets_job(*_CHECKPOINTS, max_steps=60))
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(_is_metrics_of(1, 5))
            run = fleet.run_of(job)
            assert run is not None
            rank = run.pids()["rank"]
            (trainer,) = fleet.processes("tunefleet_services.trainer")
            trainer.kill()
            await asyncio.to_thread(trainer.wait, 10)
            seen = max(_steps(timeline.events, 1))
            await timeline.wait_for(_is_metrics_of(1, seen + 10))
            assert run.pids()["rank"] == rank  # the very process goes on
        ended, events = await fleet.finish(client, job.name)
    assert ended.state == JobState.JOB_STATE_SUCCEEDED
    assert ended.attempt == 1
    assert_whole(events)
    assert _steps(events, 1) == list(range(1, 61))
    (again,) = fleet.processes("tunefleet_services.trainer")
    assert again.pid != trainer.pid


async def test_cancelled_run_leaves_no_process(fleet: LocalFleet) -> None:
    async with fleet.client() as client:
        job = await client.jobs.create(tickets_job(max_steps=2000))
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(_is_metrics_of(1, 2))
        run = fleet.run_of(job)
        assert run is not None
        ranks = [
            item for item in marked_processes(run.mark) if "tunefleet_core.worker.rank" in item.cmdline()
        ]
        parents = fleet.processes("tunefleet_core.worker.rank_parent")
        assert [rank.ppid() for rank in ranks] == [parent.pid for parent in parents], (
            "one import for all runs"
        )
        await client.jobs.cancel(job.name)
        ended, events = await fleet.finish(client, job.name)
    assert ended.state == JobState.JOB_STATE_CANCELLED
    assert marked_processes(run.mark) == []
    assert sum(event.HasField("device_released") for event in events) == 1
