"""Jobs that are submitted together lie together: a commit costs by the pages that it writes."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunefleet_coordinator.names import fresh_uid
from tunefleet_coordinator.store import Store
from tunefleet_core.testing import samples

BATCHES, JOBS = 40, 12
FRAME_BYTES = 4096 + 24  # of the write-ahead log: a page and its header


def pages_written(store: Store, desk: Any, name: str, uid: Callable[[], str]) -> int:
    """Return how many pages went into the log, for some commits of several jobs each."""
    log = Path(f"{store.path}-wal")
    before = log.stat().st_size
    for batch in range(BATCHES):
        events = [
            samples.submit(
                batch, f"{name}-{batch:03}-{number:03}", request_id=f"{name}{batch}-{number}", uid=uid()
            )
            for number in range(JOBS)
        ]
        assert store.commit([desk.prepare(event) for event in events]) == [None] * JOBS
    return (log.stat().st_size - before) // FRAME_BYTES


def test_a_commit_of_several_jobs_writes_fewer_pages_than_with_random_uids(store: Store, desk: Any) -> None:
    together = pages_written(store, desk, "together", fresh_uid)
    scattered = pages_written(store, desk, "scattered", lambda: uuid.uuid4().hex)

    assert together < 0.75 * scattered, f"{together} and {scattered} pages"


def test_uids_have_one_length_are_never_equal_and_begin_alike_when_made_together() -> None:
    uids = [fresh_uid() for _ in range(10_000)]

    assert {len(uid) for uid in uids} == {32}
    assert all(int(uid, 16) >= 0 for uid in uids)
    assert len(set(uids)) == len(uids)
    assert len({uid[:12] for uid in uids}) < len(uids) / 2
