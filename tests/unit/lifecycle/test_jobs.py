"""Submit, cancel, and how attempts end."""

from __future__ import annotations

from typing import Any

import pytest

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.job.v1.event_pb2 import AttemptOutcome, DeviceRelease
from tunefleet.job.v1.job_pb2 import JobResult
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.errors import Reason
from tunefleet_core.lifecycle import (
    AttemptState,
    JobRow,
    ManifestRow,
    ModelRow,
    RequestRow,
    SpecRow,
    desired_for,
)
from tunefleet_core.testing import samples

SUCCEEDED = AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED
FAILED = AttemptOutcome.ATTEMPT_OUTCOME_FAILED
CANCELLED = AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED

PERMANENT = [
    Reason.FIELD_INVALID,
    Reason.DATA_INVALID,
    Reason.BASE_INVALID,
    Reason.NO_TRAINED_TOKEN,
    Reason.OUT_OF_MEMORY,
    Reason.CAPABILITY_UNSUPPORTED,
    Reason.TEMPLATE_MISMATCH,
]
PASSING = [
    Reason.WORKER_LOST,
    Reason.UNAVAILABLE,
    Reason.BACKEND_FAILED,
    Reason.INTERNAL,
    Reason.DISK_FULL,
]


def test_a_submit_writes_job_spec_request_and_event_together(desk: Any) -> None:
    decision = desk.decide(samples.submit(3, request_id="r"))

    rows = {type(change.new) for change in decision.changes if hasattr(change, "new")}
    assert rows == {JobRow, SpecRow, RequestRow}
    desk.do(samples.submit(3, request_id="r"))
    job = desk.job()
    assert (job.state, job.name) == (JobState.JOB_STATE_PENDING, "projects/default/jobs/job")
    assert job.last_sequence == 1
    (event,) = desk.events()
    assert event.state_changed.to == JobState.JOB_STATE_PENDING
    assert event.create_time.seconds == int(samples.moment(3).wall)


def test_the_same_request_makes_one_job_even_after_it_ended(desk: Any) -> None:
    first = desk.do(samples.submit(0, "one", request_id="r", body=b"x", uid="u1"))
    desk.do(samples.cancel(1, "one"))

    again = desk.do(samples.submit(2, "another-name", request_id="r", body=b"x", uid="u2"))

    assert first.row is not None
    assert (again.name, again.is_repetition) == (first.name, True)
    assert desk.refused(samples.submit(2, request_id="r", body=b"y")).reason is Reason.REQUEST_ID_REUSED
    assert desk.refused(samples.submit(2, "one", request_id="new")).reason is Reason.JOB_EXISTS
    assert [key for key in desk.durable.rows if key[0] == "job"] == [("job", "u1", 0)]


def test_success_makes_the_model_and_the_result_in_one_decision(running: Any) -> None:
    manifest = running.commit(1)

    running.end(2, SUCCEEDED, output=manifest.digest)

    job = running.job()
    assert job.state == JobState.JOB_STATE_SUCCEEDED
    assert job.output_digest == manifest.digest
    result = JobResult.FromString(job.result)
    assert (result.model, result.manifest_digest) == ("projects/default/models/job", manifest.digest)
    model = running.durable.rows[("model", job.uid, 0)]
    assert isinstance(model, ModelRow)
    assert (model.kind, model.base_model, model.job) == ("adapter", "/models/base", job.name)
    assert running.kinds()[-3:] == ["attempt_ended", "device_released", "state_changed"]
    assert job.end_time is not None
    assert running.world.ledger.booked() == {}


def test_an_evaluation_makes_no_model(running: Any) -> None:
    manifest = running.commit(1, kind=ArtifactKind.ARTIFACT_KIND_EVALUATION)
    running.end(2, SUCCEEDED, output=manifest.digest)
    assert running.job().state == JobState.JOB_STATE_SUCCEEDED
    assert JobResult.FromString(running.job().result).model == ""
    assert not any(key[0] == "model" for key in running.durable.rows)


@pytest.mark.parametrize("output", ["", "never committed", "checkpoint"])
def test_success_without_a_committed_output_is_a_failure(running: Any, output: str) -> None:
    running.commit(1, kind=ArtifactKind.ARTIFACT_KIND_CHECKPOINT, digest="checkpoint")
    running.end(2, SUCCEEDED, output=output)
    assert running.job().state == JobState.JOB_STATE_WAITING_RETRY
    assert running.events()[-3].attempt_ended.outcome == FAILED


@pytest.mark.parametrize("reason", PERMANENT)
def test_a_user_error_is_final_at_once(running: Any, reason: Reason) -> None:
    running.end(1, FAILED, reason=reason)
    job = running.job()
    assert (job.state, job.attempt) == (JobState.JOB_STATE_FAILED, 1)
    assert reason.value.encode() in job.error


@pytest.mark.parametrize("reason", PASSING)
def test_a_passing_error_is_tried_again_while_attempts_remain(running: Any, reason: Reason) -> None:
    now = 1.0
    for attempt in (1, 2):
        running.end(now, FAILED, reason=reason)
        job = running.job()
        assert (job.state, job.attempt) == (JobState.JOB_STATE_WAITING_RETRY, attempt)
        assert job.not_before == now + 0.5 * 2 ** (attempt - 1)
        running.tick(job.not_before - 0.01)
        assert running.job().state == JobState.JOB_STATE_WAITING_RETRY
        running.tick(job.not_before)
        assert running.job().state == JobState.JOB_STATE_PREPARING
        assert running.live().fencing_number == attempt + 1
        now = job.not_before
    running.end(now, FAILED, reason=reason)
    assert running.job().state == JobState.JOB_STATE_FAILED
    assert running.job().attempt == 3


def test_the_wait_has_a_cap(desk: Any) -> None:
    waits = [desk.policy.backoff_seconds(failures) for failures in (1, 2, 3, 8, 9, 5000)]
    assert waits == [0.5, 1, 2, 60, 60, 60]


def test_a_run_that_was_stopped_without_a_request_is_tried_again(running: Any) -> None:
    running.end(1, CANCELLED)
    assert running.job().state == JobState.JOB_STATE_WAITING_RETRY
    assert b"WORKER_LOST" in running.job().error


def test_a_retry_resumes_from_the_newest_checkpoint(running: Any) -> None:
    for step in (10, 30, 20):
        running.commit(1, kind=ArtifactKind.ARTIFACT_KIND_CHECKPOINT, step=step, digest=f"at-{step}")
    running.end(2, FAILED, reason=Reason.INTERNAL)
    running.tick(2.5)

    resume = running.live().resume_from
    assert (resume.step, resume.manifest_digest, resume.attempt) == (30, "at-30", 1)
    started = [event.attempt_started for event in running.events() if event.HasField("attempt_started")]
    assert [item.resume_from.step for item in started] == [0, 30]


def test_cancel_of_a_waiting_job_is_done_at_once(desk: Any) -> None:
    desk.do(samples.submit(0))
    job = desk.do(samples.cancel(1))
    assert job.state == JobState.JOB_STATE_CANCELLED
    assert list(desk.world.queue.uids()) == []
    desk.do(samples.attached(2))
    assert desk.world.live_attempts() == []


def test_cancel_of_a_retrying_job_is_done_at_once(running: Any) -> None:
    running.end(1, FAILED, reason=Reason.INTERNAL)
    assert running.do(samples.cancel(2)).state == JobState.JOB_STATE_CANCELLED
    running.tick(100)
    assert running.job().state == JobState.JOB_STATE_CANCELLED


@pytest.mark.parametrize("begun", [False, True])
def test_cancel_of_a_held_job_waits_for_the_proof(desk: Any, begun: bool) -> None:
    desk.do(samples.attached(0))
    desk.do(samples.submit(0))
    if begun:
        desk.run(0)
    job = desk.do(samples.cancel(1))
    assert job.state == JobState.JOB_STATE_STOPPING
    assert desk.live().state == AttemptState.STOPPING
    (assignment,) = desired_for(desk.world, "services/a").assignments
    assert assignment.goal == 2, "CANCEL"
    assert desk.world.ledger.booked(), "the device is still held"

    desk.end(2, CANCELLED)

    assert desk.job().state == JobState.JOB_STATE_CANCELLED
    released = next(event for event in desk.events() if event.HasField("device_released"))
    assert released.device_released.device_release == DeviceRelease.DEVICE_RELEASE_BY_EXIT
    assert desired_for(desk.world, "services/a").assignments == ()


def test_a_success_before_the_cancel_took_hold_wins_if_its_output_is_committed(running: Any) -> None:
    manifest = running.commit(1)
    running.do(samples.cancel(2))
    running.end(3, SUCCEEDED, output=manifest.digest)
    assert running.job().state == JobState.JOB_STATE_SUCCEEDED


def test_a_success_without_output_after_a_cancel_is_cancelled(running: Any) -> None:
    running.do(samples.cancel(2))
    running.end(3, SUCCEEDED, output="never committed")
    assert running.job().state == JobState.JOB_STATE_CANCELLED


def test_a_failure_after_a_cancel_is_cancelled_not_failed(running: Any) -> None:
    running.do(samples.cancel(2))
    running.end(3, FAILED, reason=Reason.DATA_INVALID)
    assert running.job().state == JobState.JOB_STATE_CANCELLED


def test_a_service_lost_while_stopping_leaves_a_cancelled_job_and_an_open_question(running: Any) -> None:
    running.do(samples.cancel(1))
    running.tick(15)
    assert running.job().state == JobState.JOB_STATE_CANCELLED
    released = next(event for event in running.events() if event.HasField("device_released"))
    assert released.device_released.device_release == DeviceRelease.DEVICE_RELEASE_UNKNOWN


def test_cancel_again_succeeds_and_cancel_of_another_end_is_refused(running: Any) -> None:
    running.do(samples.cancel(1, request_id="c"))
    stopping = running.do(samples.cancel(1))
    assert stopping.state == JobState.JOB_STATE_STOPPING
    running.end(2, CANCELLED)
    assert running.do(samples.cancel(3)).state == JobState.JOB_STATE_CANCELLED
    assert running.do(samples.cancel(3, request_id="c")).state == JobState.JOB_STATE_CANCELLED

    running.do(samples.submit(4, "other"))
    manifest = running.commit(4, "other")
    running.end(5, SUCCEEDED, output=manifest.digest, job_id="other")
    refused = running.refused(samples.cancel(6, "other"))
    assert refused.reason is Reason.STATE_CONFLICT
    assert refused.metadata["state"] == "SUCCEEDED"
    assert running.refused(samples.cancel(6, "nobody")).reason is Reason.JOB_NOT_FOUND


def test_a_stale_etag_stops_a_cancel(running: Any) -> None:
    job = running.job()
    refused = running.refused(samples.cancel(1, etag=str(job.version - 1)))
    assert refused.reason is Reason.ETAG_MISMATCH
    assert running.do(samples.cancel(1, etag=str(job.version))).state == JobState.JOB_STATE_STOPPING


def test_a_manifest_is_committed_once(running: Any) -> None:
    first = running.commit(1, kind=ArtifactKind.ARTIFACT_KIND_CHECKPOINT, step=10)
    last = running.job().last_sequence
    again = running.do(samples.commit(2, running.live(), kind=ArtifactKind.ARTIFACT_KIND_CHECKPOINT, step=10))
    assert again == first
    assert isinstance(again, ManifestRow)
    assert running.job().last_sequence == last
    assert running.job().checkpoint.step == 10
    other = samples.commit(3, running.live(), step=11, digest=first.digest)
    assert running.refused(other).reason is Reason.FIELD_INVALID
