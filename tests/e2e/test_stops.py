"""Ctrl-C at `tunefleet up` in the midst of real training: the next goes on, bitwise as if it had not been."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

import pytest
from chaos_fleet import TEST_MARKER, assert_whole
from local_fleet import LocalFleet, adapter_sha256, tickets_job

from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.worker.marker import marked_processes

pytestmark = [
    pytest.mark.backend,
    pytest.mark.slow,  # trains twice; that a stop loses no step is proven fast with echo
    pytest.mark.timeout(400),
    pytest.mark.asyncio(loop_scope="module"),
]

_STEPS = 24


def _losses(events: Sequence[JobEvent]) -> list[tuple[int, float]]:
    numbers = (event.metrics for event in events if event.metrics.HasField("loss"))
    return [(item.step, item.loss) for item in numbers]


async def test_a_run_that_ctrl_c_interrupts_makes_the_adapter_of_an_undisturbed_one(
    fleet: LocalFleet,
) -> None:
    # One attempt, so that a single counted failure fails it; no checkpoint but the one of the stop.
    spec = tickets_job("train.checkpoint.every_steps=1000", "max_attempts=1", max_steps=_STEPS)
    async with fleet.client() as client:
        undisturbed, calm = await fleet.finish(client, (await client.jobs.create(spec)).name)
        assert undisturbed.state == JobState.JOB_STATE_SUCCEEDED

        job = await client.jobs.create(spec)
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(lambda event: event.metrics.step > 5)
        assert await fleet.stop("up", signal.SIGINT) == 0
        assert marked_processes(fleet.mark, variable=TEST_MARKER) == []
        (step,) = re.findall(rf"Saved: {job.name.rpartition('/')[2]} at step (\d+)\.", fleet.log("up"))
        assert 5 < int(step) < _STEPS

        await fleet.spawn("up", "-m", "tunefleet_cli", "up", "--plain")
        await fleet.until(lambda: fleet.log("up").count("Fleet ready") == 2, "the fleet is ready again")
    async with fleet.client() as client:
        ended, events = await fleet.finish(client, job.name)
        assert ended.state == JobState.JOB_STATE_SUCCEEDED
        assert_whole(events)
        starts = [event.attempt_started for event in events if event.HasField("attempt_started")]
        assert [item.resume_from.step for item in starts] == [0, int(step)]
        outcomes = [event.attempt_ended.outcome for event in events if event.HasField("attempt_ended")]
        assert outcomes[0] == AttemptOutcome.ATTEMPT_OUTCOME_INTERRUPTED
        assert _losses(events) == _losses(calm), "not a step was lost, trained twice or trained otherwise"
        assert await adapter_sha256(client, ended) == await adapter_sha256(client, undisturbed)
