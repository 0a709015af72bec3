"""Work that fails: how often it is tried, and what a person is told."""

from __future__ import annotations

import pytest
from chaos_fleet import ChaosFleet, assert_whole, echo_job

from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.errors import Reason, error_from_status

pytestmark = [pytest.mark.chaos]


@pytest.mark.slow  # three attempts; what one failure does is shown below
async def test_poison_job_fails_after_its_last_attempt(fleet: ChaosFleet) -> None:
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(exit_at_step=7, max_attempts=3))
        ended, events = await fleet.finish(client, job.name)
        after = await client.jobs.create(echo_job())
        later, later_events = await fleet.finish(client, after.name)
    assert ended.state == JobState.JOB_STATE_FAILED
    assert ended.attempt == 3
    assert_whole(events)
    ends = [event.attempt_ended for event in events if event.HasField("attempt_ended")]
    assert [end.outcome for end in ends] == [AttemptOutcome.ATTEMPT_OUTCOME_FAILED] * 3
    error = error_from_status(ended.error)
    assert error.reason is Reason.WORKER_LOST
    assert "exit code 9" in error.message
    assert error.hint
    starts = [event.attempt_started for event in events if event.HasField("attempt_started")]
    assert [start.resume_from.step for start in starts] == [0, 5, 5]
    await fleet.assert_succeeded(later, later_events)  # it harmed nobody but itself


async def test_failing_job_shows_its_own_message(fleet: ChaosFleet) -> None:
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(fail_at_step=3, max_attempts=1))
        ended, events = await fleet.finish(client, job.name)
    assert ended.state == JobState.JOB_STATE_FAILED
    assert_whole(events)
    error = error_from_status(ended.error)
    assert error.reason is Reason.BACKEND_FAILED
    assert "Told to fail at step 3." in error.message
    logged = [line for event in events for line in event.log_lines.lines]
    assert "step 2 of 20" in logged
