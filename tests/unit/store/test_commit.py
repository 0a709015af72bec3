"""A batch is one transaction, each operation of it isolated from its neighbours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_coordinator.store import Conflict, Dependent, Store
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import JobRow, RowChange, World
from tunefleet_core.testing import samples


def test_what_was_committed_is_loaded_again(store: Store, desk: Any) -> None:
    desk.do(samples.submit(0, "one", request_id="r1", labels=(("site", "office"),)))
    desk.do(samples.attached(1, samples.service(labels={"site": "office"})))
    desk.do(samples.deployment(2))
    attempt = desk.world.live_attempt("uid-of-one")
    desk.do(samples.events(3, attempt, 1, 2, 3))
    desk.do(samples.commit(4, attempt, kind=ArtifactKind.ARTIFACT_KIND_CHECKPOINT, step=7))

    durable = store.load()
    again = World(durable.rows, next_queue_number=durable.next_queue_number)

    assert durable.next_queue_number == 2
    assert again.job("uid-of-one") == desk.world.job("uid-of-one")
    live = again.live_attempt("uid-of-one")
    assert live is not None
    assert live == replace(desk.world.live_attempt("uid-of-one"), lease_expires=0.0)
    assert again.deployment("uid-of-tuned") == desk.world.deployment("uid-of-tuned")
    (service,) = again.services()
    assert (service.name, service.epoch, service.is_attached) == ("services/a", 1, False)
    assert again.ledger.booked() == desk.world.ledger.booked()


def test_an_ended_job_leaves_the_working_set_and_stays_readable(store: Store, desk: Any) -> None:
    desk.do(samples.attached(0))
    desk.do(samples.submit(1))
    attempt = desk.world.live_attempt("uid-of-job")
    manifest = desk.do(samples.commit(2, attempt))
    success = AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED
    status = samples.attempt_status(attempt, outcome=success, output=manifest.digest)
    desk.do(samples.report(3, status))

    assert [row for row in store.load().rows if isinstance(row, JobRow)] == []
    job = store.get_job("projects/default/jobs/job")
    assert job is not None
    assert job.state == JobState.JOB_STATE_SUCCEEDED
    model = store.get_model("projects/default/models/job")
    assert model is not None
    assert (model.manifest_digest, model.base_model, model.kind) == (
        manifest.digest,
        "/models/base",
        "adapter",
    )
    assert store.get_manifest(manifest.digest) == manifest
    spec = store.get_spec(job.uid)
    assert spec is not None
    assert (spec.spec, spec.resolved_spec) == (b"spec", b"resolved")
    assert [item.attempt for item in store.list_attempts(job.uid)] == [1]
    events = store.read_events(job.uid, 0)
    assert [event.sequence for event in events] == list(range(1, job.last_sequence + 1))


def test_a_stale_version_fails_its_operation_and_no_other(store: Store, desk: Any) -> None:
    for name in ("one", "two", "three"):
        desk.do(samples.submit(0, name))
    batch = [desk.prepare(samples.cancel(1, name)) for name in ("one", "two", "three")]
    stale = [
        replace(change, old=replace(change.old, version=99)) if isinstance(change, RowChange) else change
        for change in batch[1]
    ]

    first, second, third = store.commit([batch[0], stale, batch[2]])

    assert (first, third) == (None, None)
    assert isinstance(second, Conflict)
    assert ("job", "uid-of-two", 0) in second.keys
    states = {row.job_id: row.state for row in store.list_jobs("default").items}
    assert states == {
        "one": JobState.JOB_STATE_CANCELLED,
        "two": JobState.JOB_STATE_PENDING,
        "three": JobState.JOB_STATE_CANCELLED,
    }
    two = store.get_job("projects/default/jobs/two")
    assert two is not None
    assert len(store.read_events(two.uid, 0)) == two.last_sequence, "its events went with it"


def test_what_followed_from_a_failed_operation_is_not_committed(store: Store, desk: Any) -> None:
    desk.do(samples.submit(0, "one"))
    desk.do(samples.submit(0, "other"))
    attach = desk.prepare(samples.attached(1))
    bad = [
        replace(change, old=replace(change.old, version=99)) if isinstance(change.old, JobRow) else change
        for change in attach
        if isinstance(change, RowChange)
    ]
    attempt = desk.world.live_attempt("uid-of-one")
    running = desk.prepare(samples.report(2, samples.attempt_status(attempt)))
    unrelated = desk.prepare(samples.cancel(3, "other"))

    results = store.commit([bad, running, unrelated])

    assert isinstance(results[0], Conflict)
    assert isinstance(results[1], Dependent)
    assert results[2] is None


def test_a_taken_name_is_a_conflict(store: Store, desk: Any) -> None:
    first = desk.prepare(samples.submit(0, "one", uid="a"))
    blind = type(desk)(store)
    second = blind.prepare(samples.submit(0, "one", uid="b"))

    results = store.commit([first, second])

    assert results[0] is None
    assert isinstance(results[1], Conflict)
    assert [row.uid for row in store.list_jobs("default").items] == ["a"]


def test_the_database_refuses_a_second_live_attempt(store: Store, desk: Any) -> None:
    desk.do(samples.attached(0))
    desk.do(samples.submit(0))
    attempt = desk.world.live_attempt("uid-of-job")
    second = replace(attempt, attempt=2, fencing_number=2)

    (result,) = store.commit([[RowChange(old=None, new=second)]])

    assert isinstance(result, Conflict)


def test_a_repeated_request_is_answered_from_the_store(store: Store, desk: Any) -> None:
    desk.do(samples.submit(0, "one", request_id="r1", body=b"x"))
    desk.do(samples.cancel(1, "one"))
    after_restart = type(desk)(store)

    again = after_restart.do(samples.submit(2, "fresh-name", request_id="r1", body=b"x"))
    with pytest.raises(TunefleetError) as other_body:
        after_restart.do(samples.submit(2, "fresh-name", request_id="r1", body=b"y"))
    with pytest.raises(TunefleetError) as taken:
        after_restart.do(samples.submit(2, "one", request_id="r2"))

    assert (again.name, again.is_repetition) == ("projects/default/jobs/one", True)
    assert other_body.value.reason is Reason.REQUEST_ID_REUSED
    assert taken.value.reason is Reason.JOB_EXISTS
    row = store.get_request(samples.request("r1").key)
    assert row is not None
    assert row.response == b"projects/default/jobs/one"


def test_requests_are_forgotten_by_age(store: Store, desk: Any) -> None:
    for index in range(5):
        desk.do(samples.submit(index, f"job-{index}", request_id=f"r{index}"))

    forgotten = [store.forget_requests(samples.moment(3).wall, limit=2) for _ in range(3)]

    assert forgotten == [2, 1, 0]
    assert store.get_request(samples.request("r2").key) is None
    assert store.get_request(samples.request("r3").key) is not None
