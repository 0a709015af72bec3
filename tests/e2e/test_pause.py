"""Real training is paused and resumed, and comes out bitwise as if it had not been."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from chaos_fleet import assert_whole
from local_fleet import LocalFleet, adapter_sha256, tickets_job

from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent
from tunefleet.job.v1.state_pb2 import JobState

pytestmark = [
    pytest.mark.backend,
    pytest.mark.slow,  # trains twice; that a pause is exact is proven fast with echo
    pytest.mark.timeout(400),
    pytest.mark.asyncio(loop_scope="module"),
]

_STEPS = 24


def _steps(events: Sequence[JobEvent]) -> list[int]:
    return [event.metrics.step for event in events if event.metrics.HasField("loss")]


async def test_a_paused_and_resumed_run_makes_the_adapter_of_an_undisturbed_one(fleet: LocalFleet) -> None:
    spec = tickets_job("train.checkpoint.every_steps=100", max_steps=_STEPS)
    async with fleet.client() as client:
        undisturbed, calm = await fleet.finish(client, (await client.jobs.create(spec)).name)
        assert undisturbed.state == JobState.JOB_STATE_SUCCEEDED

        job = await client.jobs.create(spec)
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(lambda event: event.metrics.step > 5)
        await client.jobs.pause(job.name)

        async def is_paused() -> bool:
            return (await client.jobs.get(job.name)).state == JobState.JOB_STATE_PAUSED

        await fleet.until(is_paused, "the job is paused")
        paused = await client.jobs.get(job.name)
        assert 5 < paused.checkpoint.step < _STEPS
        await client.jobs.resume(job.name)
        ended, events = await fleet.finish(client, job.name)

        assert ended.state == JobState.JOB_STATE_SUCCEEDED
        assert_whole(events)
        outcomes = [event.attempt_ended.outcome for event in events if event.HasField("attempt_ended")]
        assert outcomes[0] == AttemptOutcome.ATTEMPT_OUTCOME_PAUSED
        assert _steps(events) == _steps(calm), "not a step was lost or trained twice"
        assert await adapter_sha256(client, ended) == await adapter_sha256(client, undisturbed)
