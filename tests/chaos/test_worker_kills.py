"""SIGKILL of what works on a run: it goes on from the newest committed checkpoint."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable

import pytest
from chaos_fleet import ChaosFleet, echo_job

from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent

pytestmark = [pytest.mark.chaos]

_STEPS = 40
_EVERY = 4


def _is_metrics_of(attempt: int, step: int = 0) -> Callable[[JobEvent], bool]:
    return lambda event: event.attempt == attempt and event.metrics.step > step


@pytest.mark.seeds(6)
@pytest.mark.parametrize("victim", ["rank", pytest.param("host", marks=pytest.mark.slow)])
async def test_killed_worker_resumes_from_newest_committed_checkpoint(
    fleet: ChaosFleet, seed: int, victim: str, measure: Callable[[str, float], None]
) -> None:
    rng = random.Random(f"{victim}{seed}")
    async with fleet.client() as client:
        job = await client.jobs.create(
            echo_job(steps=_STEPS, every_steps=_EVERY, seed=seed, step_seconds=0.03)
        )
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(_is_metrics_of(1, rng.randrange(1, _STEPS - 15)))
            run = fleet.run_of(job)
            assert run is not None
            os.kill(run.pids()[victim], signal.SIGKILL)
            killed = fleet.now()
            await timeline.wait_for(_is_metrics_of(2))
            measure(f"{victim} killed to first step of attempt 2", fleet.now() - killed)
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert ended.attempt == 2
    _assert_resumed_from_newest(events)
    ends = [event.attempt_ended for event in events if event.HasField("attempt_ended")]
    assert [end.outcome for end in ends] == [
        AttemptOutcome.ATTEMPT_OUTCOME_FAILED,
        AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED,
    ]
    assert "died" in ends[0].error.message or "SIGKILL" in ends[0].error.message


def _assert_resumed_from_newest(events: list[JobEvent]) -> None:
    """Attempt 2 begins at the newest step that was committed before it, and not a step elsewhere."""
    second = next(index for index, event in enumerate(events) if event.attempt_started.fencing_number == 2)
    committed = [
        event.checkpoint_committed.checkpoint.step
        for event in events[:second]
        if event.HasField("checkpoint_committed")
    ]
    saved = [event.checkpoint_saved.step for event in events[:second] if event.HasField("checkpoint_saved")]
    resumed = events[second].attempt_started.resume_from.step
    assert resumed == max(committed, default=0)
    assert resumed >= max(saved, default=0)  # what was whole on the disk was committed, not lost
    steps = [event.metrics.step for event in events if event.attempt == 2 and event.HasField("metrics")]
    assert steps == list(range(resumed + 1, _STEPS + 1))
