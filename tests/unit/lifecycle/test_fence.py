"""Only the holder of the live attempt changes anything, and its events count once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent, Metrics
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.errors import Reason
from tunefleet_core.lifecycle import AttemptRow, EventsReported
from tunefleet_core.testing import samples


def _lost_and_restarted(desk: Any) -> tuple[AttemptRow, AttemptRow]:
    """Return an attempt that was lost, and its successor on another service."""
    old = desk.live()
    desk.do(samples.attached(14, samples.service("services/b")))
    desk.tick(15)
    new = desk.live()
    assert (new.service, new.attempt, new.fencing_number) == ("services/b", 2, 2)
    return old, new


@pytest.mark.parametrize("what", ["events", "manifest", "end", "running"])
def test_a_zombie_can_commit_nothing(running: Any, what: str) -> None:
    old, new = _lost_and_restarted(running)
    running.do(samples.attached(16, samples.service("services/a")))
    before = dict(running.durable.rows)
    success = AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED
    zombie = {
        "events": samples.events(17, old, 1),
        "manifest": samples.commit(17, old),
        "end": samples.report(17, samples.attempt_status(old, outcome=success, output="x"), epoch=2),
        "running": samples.report(17, samples.attempt_status(old), epoch=2),
    }[what]

    assert running.refused(zombie).reason is Reason.FENCED
    assert running.durable.rows == before
    assert running.live() == new


@pytest.mark.parametrize(("attempt", "fence"), [(1, 2), (2, 1), (3, 3), (2, 3), (0, 0)])
def test_attempt_and_fencing_number_must_both_be_the_live_ones(
    running: Any, attempt: int, fence: int
) -> None:
    _, new = _lost_and_restarted(running)
    forged = replace(new, attempt=attempt, fencing_number=fence)
    assert running.refused(samples.events(20, forged, 1)).reason is Reason.FENCED
    assert running.refused(samples.commit(20, forged)).reason is Reason.FENCED
    running.do(samples.events(20, new, 1))


def test_another_service_cannot_speak_for_an_attempt(running: Any) -> None:
    running.do(samples.attached(1, samples.service("services/b")))
    status = samples.attempt_status(running.live())
    assert running.refused(samples.report(2, status, "services/b")).reason is Reason.FENCED


def test_after_the_end_even_the_last_holder_is_fenced(running: Any) -> None:
    attempt = running.live()
    running.end(1, AttemptOutcome.ATTEMPT_OUTCOME_FAILED, reason=Reason.DATA_INVALID)
    assert running.refused(samples.events(2, attempt, 1)).reason is Reason.FENCED


def test_events_count_once_and_in_order(running: Any) -> None:
    attempt = running.live()
    before = running.job().last_sequence

    first = running.do(samples.events(1, attempt, 1, 2, 3))
    again = running.do(samples.events(1, attempt, 1, 2, 3))
    more = running.do(samples.events(1, attempt, 2, 3, 4, 5))

    acknowledged = [item.acknowledged_source_sequence for item in (first, again, more)]
    assert acknowledged == [3, 3, 5]
    stored = [event for event in running.events() if event.source_sequence]
    assert [event.source_sequence for event in stored] == [1, 2, 3, 4, 5]
    assert [event.sequence for event in stored] == list(range(before + 1, before + 6))
    assert {event.attempt for event in stored} == {1}


def test_a_hole_is_refused_and_the_expected_number_named(running: Any) -> None:
    attempt = running.live()
    running.do(samples.events(1, attempt, 1, 2))
    refused = running.refused(samples.events(2, attempt, 4))
    assert refused.reason is Reason.FIELD_INVALID
    assert "3" in refused.message
    assert running.live().acknowledged_source_sequence == 2
    inside = running.refused(samples.events(2, attempt, 3, 5))
    assert "expected 4" in inside.message
    assert running.live().acknowledged_source_sequence == 2, "all of a report or nothing"


def test_the_senders_events_are_not_changed(running: Any) -> None:
    event = JobEvent(source_sequence=1, metrics=Metrics(step=1))
    attempt = running.live()
    report = EventsReported(
        at=samples.moment(1),
        job_uid=attempt.job_uid,
        attempt=1,
        fencing_number=1,
        events=(event,),
    )
    running.do(report)
    assert event.sequence == 0


def test_progress_keeps_the_latest_of_every_number(running: Any) -> None:
    attempt = running.live()
    reports = [
        Metrics(step=1, total_steps=9, loss=2.0, validation_loss=3.0),
        Metrics(step=2, total_steps=9, loss=1.5),
    ]
    running.do(
        EventsReported(
            at=samples.moment(1),
            job_uid=attempt.job_uid,
            attempt=1,
            fencing_number=1,
            events=tuple(
                JobEvent(source_sequence=number, metrics=metrics) for number, metrics in enumerate(reports, 1)
            ),
        )
    )
    progress = Metrics.FromString(running.job().progress)
    assert (progress.step, progress.loss, progress.validation_loss) == (2, 1.5, 3.0)


def test_a_repeated_running_report_changes_nothing(running: Any) -> None:
    assert running.job().state == JobState.JOB_STATE_RUNNING
    decision = running.decide(samples.report(1, samples.attempt_status(running.live())))
    assert decision.error is None
    assert decision.changes == ()
