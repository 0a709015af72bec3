"""How a rank process ends: its last words are kept, its exit is told truly, its orphans hold nothing up."""

from __future__ import annotations

import os
import signal

import pytest
from chaos_fleet import ChaosFleet, echo_job

from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_client import Client
from tunefleet_core.errors import Reason, error_from_status
from tunefleet_core.worker.marker import marked_processes

_STEPS = 20
_TIMES = 8


async def test_run_whose_rank_leaves_a_child_behind_ends_and_the_child_with_it(fleet: ChaosFleet) -> None:
    """The child ignores TERM and holds the rank's output open for ten minutes."""
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=_STEPS, stubborn=True))
        run = await fleet.run_begun(job)
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert marked_processes(run.mark) == []
    logged = [line for event in events for line in event.log_lines.lines]
    assert logged[-1] == f"step {_STEPS} of {_STEPS}"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=lambda number: number.name)
async def test_rank_killed_by_a_signal_is_told_by_its_name(fleet: ChaosFleet, number: signal.Signals) -> None:
    """Often, because the exit code was lost only when two readers of it met."""
    async with fleet.client() as client:
        for _ in range(_TIMES):
            job = await client.jobs.create(echo_job(steps=1000, max_attempts=1))
            run = await fleet.run_begun(job)
            await fleet.until(lambda run=run: "rank" in run.pids(), "the rank lives")
            await _first_step(fleet, client, job.name)
            os.kill(run.pids()["rank"], number)
            ended, _ = await fleet.finish(client, job.name)
            assert ended.state == JobState.JOB_STATE_FAILED
            error = error_from_status(ended.error)
            assert error.reason is Reason.WORKER_LOST
            assert f"by signal {number.name}" in error.message


async def _first_step(fleet: ChaosFleet, client: Client, name: str) -> None:
    async with fleet.watching(client, name) as timeline:
        await timeline.wait_for(lambda event: event.metrics.step > 0)
