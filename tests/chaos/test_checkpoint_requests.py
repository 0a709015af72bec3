"""A checkpoint that was asked for comes, whoever is killed on the way, and the run goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from chaos_fleet import ChaosFleet, echo_job

from tunefleet.job.v1.state_pb2 import JobState

pytestmark = [pytest.mark.chaos]


@pytest.fixture
async def fleet(root: Path) -> AsyncIterator[ChaosFleet]:
    """A fleet whose runs wait long enough for two processes to start on a machine with much to do."""
    patient = ChaosFleet(root, lease_seconds=15.0)
    try:
        await patient.start_coordinator()
        await patient.start_trainer()
        yield patient
    finally:
        await patient.close()


async def test_a_request_outlives_coordinator_and_trainer_service(fleet: ChaosFleet) -> None:
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=4_000, every_steps=100_000, step_seconds=0.05))
        await fleet.run_begun(job)

        async def works() -> bool:
            return (await client.jobs.get(job.name)).progress.step >= 2

        await fleet.until(works, "it works")
        await fleet.kill("trainer")  # nobody hears of it now; the run itself goes on
        for _ in range(2):
            await client.jobs.checkpoint(job.name, request_id="5b0e3a52-6c5c-4b7e-9a55-0d2a3c1f7a10")
        await fleet.kill("coordinator")
    await fleet.start_coordinator()
    await fleet.start_trainer()
    async with fleet.client() as client:

        async def is_committed() -> bool:
            return (await client.jobs.get(job.name)).HasField("checkpoint")

        await fleet.until(is_committed, "the checkpoint is committed")
        saved = (await client.jobs.get(job.name)).checkpoint
        found = await client.jobs.get(job.name)
        assert (found.state, found.attempt) == (JobState.JOB_STATE_RUNNING, 1)

        async def went_on() -> bool:
            return (await client.jobs.get(job.name)).progress.step >= saved.step + 5

        await fleet.until(went_on, "it goes on")
        assert (await client.jobs.get(job.name)).checkpoint == saved, "one request, one checkpoint"
        await client.jobs.cancel(job.name)
        await fleet.finish(client, job.name)
