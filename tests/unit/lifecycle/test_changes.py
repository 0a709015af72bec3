"""Labels, priority, deletion, and the bound of a history."""

from __future__ import annotations

from typing import Any

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.errors import Reason
from tunefleet_core.lifecycle import HistoryTrimmed, JobUpdateRequested, Labels
from tunefleet_core.testing import samples

SUCCEEDED = AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED


def _update(
    now: float,
    job_id: str = "job",
    *,
    labels: Labels | None = None,
    priority: int | None = None,
    etag: str = "",
) -> JobUpdateRequested:
    return JobUpdateRequested(
        at=samples.moment(now),
        request=None,
        name=f"projects/default/jobs/{job_id}",
        etag=etag,
        labels=labels,
        priority=priority,
    )


def test_a_higher_priority_takes_the_next_device(running: Any) -> None:
    running.do(samples.submit(1, "first"))
    running.do(samples.submit(1, "second"))
    running.do(_update(2, "second", priority=5))
    running.do(samples.cancel(3))
    running.end(4, AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED)
    assert running.job("second").state == JobState.JOB_STATE_PREPARING
    assert running.job("first").state == JobState.JOB_STATE_PENDING


def test_labels_are_replaced_also_of_a_job_that_has_ended(running: Any) -> None:
    job = running.do(_update(1, labels=(("team", "search"), ("a", "b"))))
    assert job.labels == (("a", "b"), ("team", "search"))
    running.do(samples.cancel(2))
    running.end(3, AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED)
    assert running.do(_update(4, priority=3)).labels == (("a", "b"), ("team", "search"))
    assert running.do(_update(5, labels=())).labels == ()
    assert running.refused(_update(6, labels=(), etag="1")).reason is Reason.ETAG_MISMATCH
    assert running.refused(_update(6, "nobody")).reason is Reason.JOB_NOT_FOUND


def test_a_deleted_job_leaves_its_model_and_nothing_else(running: Any) -> None:
    running.commit(1, kind=ArtifactKind.ARTIFACT_KIND_CHECKPOINT, step=5)
    output = running.commit(2)
    assert running.refused(samples.delete(2)).reason is Reason.STATE_CONFLICT
    running.end(3, SUCCEEDED, output=output.digest)

    running.do(samples.delete(4, request_id="d"))

    left = {key[0] for key in running.durable.rows if key[1] != "services/a"}
    assert left == {"model", "manifest", "request"}
    assert running.durable.rows[output.key] == output
    running.do(samples.delete(5, request_id="d"))
    assert running.refused(samples.delete(5)).reason is Reason.JOB_NOT_FOUND


def test_the_name_of_a_deleted_job_is_free_but_not_that_of_its_model(running: Any) -> None:
    output = running.commit(1)
    running.end(2, SUCCEEDED, output=output.digest)
    running.do(samples.delete(3))
    taken = running.refused(samples.submit(4, uid="another"))
    assert (taken.reason, "model" in taken.message) == (Reason.JOB_EXISTS, True)

    running.do(samples.submit(5, "other"))
    running.do(samples.cancel(6, "other"))
    running.end(7, AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED, job_id="other")
    running.do(samples.delete(8, "other"))
    assert running.do(samples.submit(9, "other", uid="fresh")).is_repetition is False


def test_a_deletion_that_could_not_be_committed_is_undone(running: Any) -> None:
    running.do(samples.cancel(1))
    running.end(2, AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED)
    decision = running.decide(samples.delete(3))
    running.world.apply(decision.changes)
    assert running.world.job("uid-of-job") is None
    running.world.revert(decision.changes)
    assert running.world.job_by_name("projects/default/jobs/job") is not None


def test_a_trimmed_history_says_where_it_begins(running: Any) -> None:
    for number in range(1, 11):
        running.do(samples.events(1, running.live(), number))
    before = running.job()
    stored = sum(event.ByteSize() + 2 for event in running.events())
    assert before.history_bytes == stored, "one byte of tag and one of length for such small events"

    trim = HistoryTrimmed(at=samples.moment(2), job_uid=before.uid, through_sequence=5, dropped_bytes=50)
    running.do(trim)
    running.do(trim)

    job = running.job()
    assert (job.oldest_sequence, job.history_bytes) == (6, before.history_bytes - 50)
    assert job.last_sequence == before.last_sequence
    assert running.events()[0].sequence == 6
