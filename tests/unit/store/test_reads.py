"""Lists come in pages, events from any point."""

from __future__ import annotations

from typing import Any

import pytest

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_coordinator.store import Store
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import DeploymentDeleteRequested
from tunefleet_core.testing import samples


def test_pages_of_jobs_hold_every_job_once_newest_first(store: Store, desk: Any) -> None:
    names = [f"job-{index:02}" for index in range(23)]
    for name in names:
        desk.do(samples.submit(0, name))
    desk.do(samples.cancel(1, "job-07"))

    seen: list[str] = []
    token = ""
    while True:
        page = store.list_jobs("default", page_size=5, page_token=token)
        seen += [job.job_id for job in page.items]
        token = page.next_page_token
        if not token:
            break

    assert seen == names[::-1]
    cancelled = store.list_jobs("default", states=[JobState.JOB_STATE_CANCELLED])
    assert [job.job_id for job in cancelled.items] == ["job-07"]
    assert store.list_jobs("elsewhere").items == ()


@pytest.mark.parametrize("token", ["nonsense!", "WzEsMl0", "WyJhIl0", "MQ"])
def test_a_foreign_page_token_is_refused(store: Store, token: str) -> None:
    with pytest.raises(TunefleetError) as caught:
        store.list_jobs("default", page_token=token)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.metadata["field"] == "page_token"


def test_a_negative_page_size_is_refused_and_a_large_one_cut(store: Store, desk: Any) -> None:
    with pytest.raises(TunefleetError):
        store.list_jobs("default", page_size=-1)
    desk.do(samples.submit(0))
    assert len(store.list_jobs("default", page_size=100_000).items) == 1


def test_events_are_read_from_any_point(store: Store, desk: Any) -> None:
    desk.do(samples.attached(0))
    desk.do(samples.submit(0))
    attempt = desk.world.live_attempt("uid-of-job")
    for start in range(1, 50, 7):
        desk.do(samples.events(1, attempt, *range(start, start + 7)))
    last = desk.world.job("uid-of-job").last_sequence

    for after in range(last + 1):
        for limit in (1, 5, 1000):
            read = [event.sequence for event in store.read_events("uid-of-job", after, limit)]
            assert read == list(range(after + 1, min(last, after + limit) + 1))


def test_checkpoints_are_listed_newest_step_first(store: Store, desk: Any) -> None:
    desk.do(samples.attached(0))
    desk.do(samples.submit(0))
    attempt = desk.world.live_attempt("uid-of-job")
    for step in (10, 20, 30):
        desk.do(samples.commit(1, attempt, kind=ArtifactKind.ARTIFACT_KIND_CHECKPOINT, step=step))
    desk.do(samples.commit(2, attempt, step=30))

    first = store.list_checkpoints("uid-of-job", page_size=2)
    rest = store.list_checkpoints("uid-of-job", page_size=2, page_token=first.next_page_token)

    assert [row.step for row in first.items] == [30, 20]
    assert [row.step for row in rest.items] == [10]
    assert rest.next_page_token == ""


def test_a_deployment_name_is_free_again_once_it_is_gone(store: Store, desk: Any) -> None:
    desk.do(samples.deployment(0, uid="first"))
    name = "projects/default/deployments/tuned"
    desk.do(DeploymentDeleteRequested(at=samples.moment(1), request=None, name=name))
    gone = store.get_deployment(name)
    assert gone is not None
    assert gone.is_deleted
    assert store.list_deployments("default").items == ()

    desk.do(samples.deployment(2, uid="second"))

    present = store.get_deployment(name)
    assert present is not None
    assert present.uid == "second"
    assert [row.uid for row in store.list_deployments("default").items] == ["second"]
