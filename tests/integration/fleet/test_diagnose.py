"""`jobs diagnose` over the wire: from a real run's history, while it runs and afterwards."""

from __future__ import annotations

from typing import cast

import pytest
from chaos_fleet import ChaosFleet, echo_job

from tunefleet.job.v1.diagnosis_pb2 import DiagnosisCase
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_client import TERMINAL_STATES
from tunefleet_coordinator.diagnosing import diagnose_job
from tunefleet_coordinator.kernel import Kernel
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import JobRow


async def test_a_finished_run_is_diagnosed_from_its_events(fleet: ChaosFleet) -> None:
    await fleet.start_trainer()
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=30, step_seconds=0.0), job_id="one")

        async def has_ended() -> bool:
            return (await client.jobs.get(job.name)).state in TERMINAL_STATES

        await fleet.until(has_ended, "the job has ended")
        assert (await client.jobs.get(job.name)).state == JobState.JOB_STATE_SUCCEEDED
        found = await client.jobs.diagnose("one")
        assert found.case == DiagnosisCase.DIAGNOSIS_CASE_HEALTHY, found
        assert "Training loss from" in found.checks[3].evidence
        with pytest.raises(TunefleetError) as caught:
            await client.jobs.diagnose("another")
        assert caught.value.reason is Reason.JOB_NOT_FOUND


async def test_a_job_that_trains_nothing_has_nothing_to_diagnose() -> None:
    job = Job(name="projects/default/jobs/score")
    job.resolved_spec.spec.evaluate.data = "rows.jsonl"
    with pytest.raises(TunefleetError, match="trains nothing") as caught:
        # Refused by its spec: neither store nor row is looked at.
        await diagnose_job(cast("Kernel", None), cast("JobRow", None), job)
    assert caught.value.reason is Reason.STATE_CONFLICT
    assert "tunefleet jobs get score" in caught.value.hint
