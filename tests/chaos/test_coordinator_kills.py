"""SIGKILL of the coordinator: runs go on without it, and its history has no scar."""

from __future__ import annotations

import asyncio
import random

import pytest
from chaos_fleet import ChaosFleet, echo_job

from tunefleet.job.v1.state_pb2 import JobState

pytestmark = [pytest.mark.chaos]

_STEPS = 60


@pytest.mark.seeds(10)
async def test_run_survives_a_killed_coordinator(fleet: ChaosFleet, seed: int) -> None:
    rng = random.Random(seed)
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=_STEPS, every_steps=5, seed=seed, step_seconds=0.03))
        await asyncio.sleep(rng.uniform(0.2, 1.5))
        await fleet.kill("coordinator")
        # Longer than a lease term too: what was live gets a fresh term at boot.
        await asyncio.sleep(rng.choice([0.0, 0.5, fleet.lease_seconds * 1.5]))
        await fleet.start_coordinator()
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert ended.attempt == 1
    metrics = [event.metrics.step for event in events if event.HasField("metrics")]
    assert metrics == list(range(1, _STEPS + 1))


@pytest.mark.slow  # four kills; one is shown above
@pytest.mark.seeds(3)
async def test_run_survives_a_coordinator_killed_again_and_again(fleet: ChaosFleet, seed: int) -> None:
    rng = random.Random(seed)
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=_STEPS, every_steps=3, seed=seed, step_seconds=0.05))
        for _ in range(4):
            await asyncio.sleep(rng.uniform(0.0, 0.5))
            await fleet.kill("coordinator")
            await fleet.start_coordinator()
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert ended.attempt == 1


async def test_job_that_ended_while_the_coordinator_was_away_is_told(fleet: ChaosFleet) -> None:
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=20, step_seconds=0.02))
        run = await fleet.run_begun(job)
        await fleet.kill("coordinator")
        await fleet.until(lambda: "rank" not in run.pids(), "the run has ended by itself")
        await fleet.start_coordinator()
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert ended.state == JobState.JOB_STATE_SUCCEEDED
