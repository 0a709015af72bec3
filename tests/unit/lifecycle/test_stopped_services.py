"""A service that is stopped gives its jobs back: saved, not counted, and not given to it again."""

from __future__ import annotations

from typing import Any

import pytest

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.errors import Reason
from tunefleet_core.testing import samples

INTERRUPTED = AttemptOutcome.ATTEMPT_OUTCOME_INTERRUPTED
CHECKPOINT = ArtifactKind.ARTIFACT_KIND_CHECKPOINT


def _why(desk: Any) -> str:
    changes = [event.state_changed for event in desk.events() if event.HasField("state_changed")]
    return str(changes[-1].reason)


def test_a_job_is_given_back_where_it_was_saved_and_taken_up_by_the_next_life(running: Any) -> None:
    running.do(samples.stopping(1))
    running.commit(2, kind=CHECKPOINT, step=7)
    running.end(3, INTERRUPTED)

    job = running.job()
    assert (job.state, job.failures, job.not_before) == (JobState.JOB_STATE_PENDING, 0, None)
    assert _why(running) == "services/a was stopped; it goes on from step 7."
    assert running.kinds()[-3:] == ["attempt_ended", "device_released", "state_changed"]
    running.do(samples.heartbeat(4))
    assert running.world.live_attempts() == [], "whoever stops gets nothing, however often it is heard"

    running.do(samples.attached(5))
    attempt = running.live()
    assert (attempt.attempt, attempt.resume_from.step) == (2, 7)
    assert running.job().failures == 0


def test_another_trainer_takes_it_up_in_the_same_decision(running: Any) -> None:
    running.do(samples.attached(1, samples.service("services/b")))
    running.do(samples.stopping(2))
    running.end(3, INTERRUPTED)
    assert running.live().service == "services/b"
    assert _why(running) == "Assigned to services/b."


def test_stops_do_not_use_up_the_attempts_of_a_job(running: Any) -> None:
    for number in range(1, 8):
        now = 10.0 * number
        running.do(samples.stopping(now, epoch=number))
        running.end(now + 1, INTERRUPTED)
        running.do(samples.attached(now + 2))
        running.run(now + 3)
    job = running.job()
    assert (job.max_attempts, job.attempt, job.failures) == (3, 8, 0)


def test_what_was_not_saved_in_time_is_said_and_is_no_failure_either(running: Any) -> None:
    running.do(samples.stopping(1))
    running.end(2, INTERRUPTED, reason=Reason.CAPABILITY_UNSUPPORTED)  # final, if it had failed
    job = running.job()
    assert (job.state, job.failures, job.error) == (JobState.JOB_STATE_PENDING, 0, b"")
    assert "was stopped (It failed); nothing of it was saved yet" in _why(running)


def test_a_service_still_stops_after_a_restart_of_the_coordinator(running: Any) -> None:
    running.do(samples.stopping(1))
    held = running.live()
    running.restart(2)
    described = samples.service()
    described.is_stopping = True
    running.do(samples.attached(3, described, attempts=[samples.attempt_status(held)]))
    running.end(4, INTERRUPTED)
    assert running.job().state == JobState.JOB_STATE_PENDING
    assert running.world.live_attempts() == []


def test_the_word_of_an_older_session_is_refused(running: Any) -> None:
    running.do(samples.attached(1, attempts=[samples.attempt_status(running.live())]))
    assert running.refused(samples.stopping(2, epoch=1)).reason is Reason.SESSION_SUPERSEDED
    service = running.world.service("services/a")
    assert service.takes_work


@pytest.mark.parametrize(
    ("asked", "state"),
    [
        (samples.pause, JobState.JOB_STATE_PAUSED),
        (samples.cancel, JobState.JOB_STATE_CANCELLED),
    ],
)
def test_what_was_asked_for_before_holds(running: Any, asked: Any, state: int) -> None:
    running.do(asked(1))
    running.do(samples.stopping(2))
    running.end(3, INTERRUPTED)
    assert running.job().state == state


def test_a_job_that_is_given_back_keeps_its_turn(running: Any) -> None:
    """Told by the next life of its trainer, when a younger job waits for the very device."""
    running.do(samples.submit(1, "younger"))
    running.end(2, INTERRUPTED)
    assert running.live().attempt == 2
    assert running.job("younger").state == JobState.JOB_STATE_PENDING
