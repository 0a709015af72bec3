"""Pause, resume and retry: devices are freed, nothing is lost, no attempt is counted."""

from __future__ import annotations

from typing import Any

import pytest

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.fleet.v1.fleet_pb2 import AssignmentGoal
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.errors import Reason
from tunefleet_core.lifecycle import AttemptState, desired_for
from tunefleet_core.testing import samples

SUCCEEDED = AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED
FAILED = AttemptOutcome.ATTEMPT_OUTCOME_FAILED
CANCELLED = AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED
PAUSED = AttemptOutcome.ATTEMPT_OUTCOME_PAUSED
CHECKPOINT = ArtifactKind.ARTIFACT_KIND_CHECKPOINT


def _why(desk: Any, job_id: str = "job") -> str:
    """Return the reason of the newest change of state."""
    changes = [event.state_changed for event in desk.events(job_id) if event.HasField("state_changed")]
    return str(changes[-1].reason)


def _goal(desk: Any) -> int:
    (assignment,) = desired_for(desk.world, "services/a").assignments
    return int(assignment.goal)


def test_a_waiting_job_is_paused_at_once_and_gets_no_device(desk: Any) -> None:
    desk.do(samples.submit(0))
    assert desk.do(samples.pause(1)).state == JobState.JOB_STATE_PAUSED
    desk.do(samples.attached(2))
    assert desk.world.live_attempts() == []
    assert desk.do(samples.resume(3)).state == JobState.JOB_STATE_PREPARING


def test_a_job_that_waits_for_its_next_try_stays_paused_when_its_time_comes(running: Any) -> None:
    running.end(1, FAILED, reason=Reason.INTERNAL)
    job = running.do(samples.pause(1.1))
    assert (job.state, job.not_before, job.next_try_time, job.avoid) == (
        JobState.JOB_STATE_PAUSED,
        None,
        None,
        "",
    )
    running.tick(100)
    assert running.job().state == JobState.JOB_STATE_PAUSED
    assert running.job().failures == 1, "a failure before the pause still counts"


def test_a_running_job_saves_then_frees_its_device_for_the_next(running: Any) -> None:
    running.do(samples.submit(1, "next"))
    job = running.do(samples.pause(2, request_id="p"))
    assert (job.state, running.live().state) == (JobState.JOB_STATE_PAUSING, AttemptState.PAUSING)
    assert _goal(running) == AssignmentGoal.ASSIGNMENT_GOAL_PAUSE
    assert running.job("next").state == JobState.JOB_STATE_PENDING, "the device is still held"

    running.commit(3, kind=CHECKPOINT, step=7)
    running.end(4, PAUSED)

    job = running.job()
    assert (job.state, job.checkpoint.step, job.failures) == (JobState.JOB_STATE_PAUSED, 7, 0)
    assert "it goes on from step 7" in _why(running)
    assert running.kinds()[-3:] == ["attempt_ended", "device_released", "state_changed"]
    assert running.job("next").state == JobState.JOB_STATE_PREPARING, "in the same decision"
    assert running.do(samples.pause(5, request_id="p")).state == JobState.JOB_STATE_PAUSED


def test_a_resumed_job_goes_on_from_its_checkpoint_under_a_new_fence(running: Any) -> None:
    running.do(samples.pause(1))
    running.commit(2, kind=CHECKPOINT, step=7)
    running.end(3, PAUSED)

    job = running.do(samples.resume(4))

    assert job.state == JobState.JOB_STATE_PREPARING
    attempt = running.live()
    assert (attempt.attempt, attempt.fencing_number, attempt.resume_from.step) == (2, 2, 7)
    assert running.do(samples.resume(5)).state == JobState.JOB_STATE_PREPARING, "alive, so it succeeds"


def test_pausing_takes_nothing_from_the_attempts(running: Any) -> None:
    for now in range(1, 50, 10):  # more often than `max_attempts`
        running.do(samples.pause(now))
        running.end(now + 1, PAUSED)
        running.do(samples.resume(now + 2))
        running.do(samples.heartbeat(now + 9))
    for failures in (1, 2, 3):
        running.end(60, FAILED, reason=Reason.INTERNAL)
        assert running.job().failures == failures
        if failures < 3:
            running.do(samples.retry(60))
    assert running.job().state == JobState.JOB_STATE_FAILED


def test_a_backend_that_cannot_resume_is_not_paused_while_it_works(desk: Any) -> None:
    simple = samples.backend(capabilities=[Capability.CAPABILITY_TRAIN])
    desk.do(samples.attached(0, samples.service(backends=[simple])))
    desk.do(samples.submit(0))
    desk.do(samples.submit(0, "waiting"))
    refused = desk.refused(samples.pause(1))
    assert refused.reason is Reason.CAPABILITY_UNSUPPORTED
    assert refused.metadata["backend"] == "echo"
    assert desk.job().state == JobState.JOB_STATE_PREPARING
    assert desk.do(samples.pause(1, "waiting")).state == JobState.JOB_STATE_PAUSED, "nothing of it runs"


def test_what_a_backend_can_is_known_after_a_restart_too(desk: Any) -> None:
    simple = samples.backend(capabilities=[Capability.CAPABILITY_TRAIN])
    desk.do(samples.attached(0, samples.service(backends=[simple])))
    desk.do(samples.submit(0))
    desk.restart(1)
    assert desk.refused(samples.pause(1)).reason is Reason.CAPABILITY_UNSUPPORTED


def test_a_pause_before_anything_was_saved_begins_anew(running: Any) -> None:
    running.do(samples.pause(1))
    running.end(2, PAUSED)
    assert "it begins anew" in _why(running)
    running.do(samples.resume(3))
    assert running.live().resume_from is None


@pytest.mark.parametrize("reason", [Reason.WORKER_LOST, Reason.BACKEND_FAILED, None])
def test_an_attempt_that_dies_while_it_saves_leaves_a_paused_job(running: Any, reason: Reason | None) -> None:
    running.commit(1, kind=CHECKPOINT, step=5)
    running.do(samples.pause(2))
    running.end(3, FAILED if reason else CANCELLED, reason=reason)
    job = running.job()
    assert (job.state, job.failures, job.error) == (JobState.JOB_STATE_PAUSED, 0, b"")
    assert "ended while it saved" in _why(running)
    assert "step 5" in _why(running)


def test_a_service_lost_while_it_saves_leaves_a_paused_job(running: Any) -> None:
    running.commit(1, kind=CHECKPOINT, step=5)
    running.do(samples.pause(2))
    running.tick(15)
    assert running.job().state == JobState.JOB_STATE_PAUSED
    assert "service was lost" in _why(running)
    assert running.world.ledger.booked() == {}
    assert running.refused(samples.commit(16, _first_attempt(running))).reason is Reason.FENCED


def _first_attempt(desk: Any) -> Any:
    return desk.durable.rows[("attempt", "uid-of-job", 1)]


def test_a_success_before_the_pause_took_hold_stays_one(running: Any) -> None:
    manifest = running.commit(1)
    running.do(samples.pause(2))
    running.end(3, SUCCEEDED, output=manifest.digest)
    assert running.job().state == JobState.JOB_STATE_SUCCEEDED


def test_an_error_that_would_come_again_is_not_hidden_by_a_pause(running: Any) -> None:
    running.do(samples.pause(1))
    running.end(2, FAILED, reason=Reason.DATA_INVALID)
    assert running.job().state == JobState.JOB_STATE_FAILED


def test_a_resume_while_it_saves_puts_it_back_as_soon_as_it_has(running: Any) -> None:
    running.do(samples.pause(1))
    assert running.do(samples.resume(2)).state == JobState.JOB_STATE_PAUSING
    running.restart(3)
    running.do(samples.attached(4, attempts=[samples.attempt_status(running.live())]))
    running.commit(5, kind=CHECKPOINT, step=7)
    running.end(6, PAUSED)
    states = [event.state_changed.to for event in running.events() if event.HasField("state_changed")]
    assert states[-3:] == [
        JobState.JOB_STATE_PAUSED,
        JobState.JOB_STATE_PENDING,
        JobState.JOB_STATE_PREPARING,
    ]
    assert running.job().resume_requested is False


def test_a_pause_after_that_resume_wins(running: Any) -> None:
    running.do(samples.pause(1))
    running.do(samples.resume(2))
    running.do(samples.pause(3))
    running.end(4, PAUSED)
    assert running.job().state == JobState.JOB_STATE_PAUSED


def test_a_pausing_job_is_cancelled_with_proof_and_a_paused_one_at_once(running: Any) -> None:
    running.do(samples.pause(1))
    assert running.do(samples.cancel(2)).state == JobState.JOB_STATE_STOPPING
    assert _goal(running) == AssignmentGoal.ASSIGNMENT_GOAL_CANCEL
    assert running.refused(samples.pause(3)).reason is Reason.STATE_CONFLICT
    running.end(4, PAUSED)
    assert running.job().state == JobState.JOB_STATE_CANCELLED

    running.do(samples.submit(5, "other"))
    running.do(samples.pause(6, "other"))
    running.end(7, PAUSED, job_id="other")
    assert running.do(samples.cancel(8, "other")).state == JobState.JOB_STATE_CANCELLED


def test_a_restart_while_it_saves_changes_nothing(running: Any) -> None:
    running.do(samples.pause(1))
    running.restart(2)
    running.do(samples.attached(3, attempts=[samples.attempt_status(running.live())]))
    assert _goal(running) == AssignmentGoal.ASSIGNMENT_GOAL_PAUSE
    running.end(4, PAUSED)
    assert running.job().state == JobState.JOB_STATE_PAUSED
    running.restart(5)
    assert running.job().state == JobState.JOB_STATE_PAUSED
    assert list(running.world.queue.uids()) == []


@pytest.mark.parametrize("verb", [samples.pause, samples.resume, samples.retry, samples.delete])
def test_every_verb_checks_name_and_etag(running: Any, verb: Any) -> None:
    assert running.refused(verb(1, "nobody")).reason is Reason.JOB_NOT_FOUND
    assert running.refused(verb(1, etag="7777")).reason is Reason.ETAG_MISMATCH


def test_a_verb_repeated_with_its_request_id_is_carried_out_once(running: Any) -> None:
    running.do(samples.pause(1, request_id="p"))
    running.end(2, PAUSED)
    running.do(samples.resume(3, request_id="r"))
    assert running.do(samples.pause(4, request_id="p")).state == JobState.JOB_STATE_PREPARING
    running.do(samples.pause(5))
    running.end(6, PAUSED)
    assert running.do(samples.resume(7, request_id="r")).state == JobState.JOB_STATE_PAUSED


def test_a_late_double_of_a_call_that_had_nothing_to_do_does_nothing(running: Any) -> None:
    running.do(samples.pause(1))
    running.end(2, PAUSED)
    running.do(samples.pause(3, request_id="again"))
    running.do(samples.resume(4))
    assert running.do(samples.pause(5, request_id="again")).state == JobState.JOB_STATE_PREPARING

    running.do(samples.cancel(6))
    running.do(samples.cancel(7, request_id="stop"))
    running.end(8, CANCELLED)
    running.do(samples.retry(9))
    assert running.do(samples.cancel(10, request_id="stop")).state == JobState.JOB_STATE_PREPARING


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
def test_an_ended_job_is_tried_again_with_all_its_attempts(running: Any, ended: str) -> None:
    running.commit(1, kind=CHECKPOINT, step=5)
    if ended == "cancelled":
        running.do(samples.cancel(2))
        running.end(3, CANCELLED)
    else:
        running.end(3, FAILED, reason=Reason.DATA_INVALID)

    job = running.do(samples.retry(4))

    assert job.state == JobState.JOB_STATE_PREPARING
    assert (job.failures, job.end_time, job.error, job.cancel_requested) == (0, None, b"", False)
    assert running.live().resume_from.step == 5
    for _ in range(2):
        running.end(5, FAILED, reason=Reason.INTERNAL)
        running.do(samples.retry(6))
    running.end(7, FAILED, reason=Reason.INTERNAL)
    assert running.job().state == JobState.JOB_STATE_FAILED
    assert running.job().attempt == 4


def test_a_retry_from_the_start_forgets_where_it_was(running: Any) -> None:
    running.commit(1, kind=CHECKPOINT, step=5, digest="same")
    running.end(2, FAILED, reason=Reason.DATA_INVALID)
    running.do(samples.retry(3, from_start=True))
    assert running.live().resume_from is None
    running.commit(4, kind=CHECKPOINT, step=5, digest="same")
    assert running.job().checkpoint.step == 5, "the same state, come by again"


def test_a_retry_ends_a_wait_early(running: Any) -> None:
    running.end(1, FAILED, reason=Reason.INTERNAL)
    waiting = running.job()
    assert waiting.next_try_time == pytest.approx(samples.moment(1.5).wall)
    assert running.do(samples.retry(1.1)).state == JobState.JOB_STATE_PREPARING
    assert (running.job().next_try_time, running.job().failures) == (None, 1)


def test_a_restart_keeps_the_time_of_the_next_try(running: Any) -> None:
    for now, wait in ((1, 0.5), (2, 1.0)):
        running.end(now, FAILED, reason=Reason.INTERNAL)
        if now == 1:
            running.tick(now + wait)
    running.restart(2.6)
    job = running.job()
    assert job.not_before == pytest.approx(3.0)
    assert job.next_try_time == pytest.approx(samples.moment(3).wall)


def test_what_cannot_be_retried_or_resumed_says_what_can_be_done(running: Any) -> None:
    assert running.refused(samples.retry(1)).reason is Reason.STATE_CONFLICT
    running.do(samples.pause(1))
    running.end(2, PAUSED)
    assert "resume" in running.refused(samples.retry(3)).hint
    running.do(samples.cancel(4))
    assert "retry" in running.refused(samples.resume(5)).hint
    assert running.refused(samples.pause(5)).reason is Reason.STATE_CONFLICT
