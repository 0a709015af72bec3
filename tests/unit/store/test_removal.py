"""What is deleted goes with all that belongs to it, and a history is cut between two segments."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import Any

import pytest

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet_coordinator.store import Conflict, Store
from tunefleet_core.errors import TunefleetError
from tunefleet_core.lifecycle import HistoryTrimmed, RowRemoved, ServiceRemoveRequested, Tick
from tunefleet_core.testing import samples

_NAME = "projects/default/jobs/job"


def _succeeded(desk: Any) -> Any:
    desk.do(samples.attached(0))
    desk.do(samples.submit(0))
    attempt = desk.world.live_attempt("uid-of-job")
    desk.do(samples.commit(1, attempt, kind=ArtifactKind.ARTIFACT_KIND_CHECKPOINT, step=5))
    output = desk.do(samples.commit(2, attempt))
    success = AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED
    desk.do(samples.report(3, samples.attempt_status(attempt, outcome=success, output=output.digest)))
    return output


def _left(store: Store) -> dict[str, int]:
    tables = ("jobs", "specs", "attempts", "manifests", "models", "event_segments")
    with sqlite3.connect(store.path) as connection:
        counts = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}
    connection.close()
    return {name: count for name, count in counts.items() if count}


def test_a_deleted_job_leaves_its_model_and_the_manifest_of_it(store: Store, desk: Any) -> None:
    output = _succeeded(desk)
    assert len(_left(store)) == 6

    desk.do(samples.delete(4, request_id="d"))

    assert _left(store) == {"manifests": 1, "models": 1}
    assert store.get_manifest(output.digest) == output
    again = type(desk)(store)
    again.do(samples.delete(5, request_id="d"))
    with pytest.raises(TunefleetError, match="A model 'job' of an earlier job"):
        again.do(samples.submit(6, uid="fresh"))


def test_a_removal_from_another_version_fails_whole(store: Store, desk: Any) -> None:
    _succeeded(desk)
    job = store.get_job(_NAME)
    assert job is not None
    (result,) = store.commit([[RowRemoved(old=replace(job, version=job.version - 1))]])
    assert isinstance(result, Conflict)
    assert len(_left(store)) == 6


def test_a_job_made_and_deleted_and_made_again_in_one_batch_is_there_once(store: Store, desk: Any) -> None:
    batch = [
        desk.prepare(samples.submit(0, uid="first")),
        desk.prepare(samples.cancel(1)),
        desk.prepare(samples.delete(2)),
        desk.prepare(samples.submit(3, uid="second")),
    ]
    assert store.commit(batch) == [None] * 4
    job = store.get_job(_NAME)
    assert job is not None
    assert job.uid == "second"
    assert _left(store) == {"jobs": 1, "specs": 1, "event_segments": 1}


def test_a_removed_service_is_not_loaded_again(store: Store, desk: Any) -> None:
    desk.do(samples.attached(0))
    desk.do(samples.drain(1))
    assert [row.is_draining for row in store.load().rows] == [True]  # type: ignore[union-attr]
    for now in (6.0, 20.0):
        desk.do(Tick(at=samples.moment(now), due=desk.world.take_due(now)))
    name = "services/a"
    desk.do(ServiceRemoveRequested(at=samples.moment(21), request=None, name=name))
    assert store.load().rows == ()


def test_a_history_is_cut_between_segments_and_fits_its_bounds(store: Store, desk: Any) -> None:
    desk.do(samples.attached(0))
    desk.do(samples.submit(0))
    attempt = desk.world.live_attempt("uid-of-job")
    for start in range(1, 101, 10):
        desk.do(samples.events(1, attempt, *range(start, start + 10)))
    job = desk.world.job("uid-of-job")
    assert store.beyond_bounds(job.uid, events=1000, size=1 << 20) is None
    for events, size in ((35, 1 << 20), (1000, job.history_bytes // 6)):
        cut = store.beyond_bounds(job.uid, events=events, size=size)
        assert cut is not None
        through, dropped = cut
        before = desk.world.job("uid-of-job").history_bytes
        desk.do(
            HistoryTrimmed(
                at=samples.moment(2), job_uid=job.uid, through_sequence=through, dropped_bytes=dropped
            )
        )
        row = store.get_job(_NAME)
        assert row is not None
        read = [event.sequence for event in store.read_events(job.uid, 0)]
        assert read == list(range(through + 1, row.last_sequence + 1))
        assert row.oldest_sequence == through + 1
        assert len(read) <= events
        assert row.history_bytes == before - dropped <= size
        assert row.history_bytes == sum(event.ByteSize() + 2 for event in store.read_events(job.uid, 0))
