"""What may go, over random histories; and bytes that are put while they are removed."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet_core.artifacts import BlobStore
from tunefleet_core.artifacts.retention import (
    ArtifactFacts,
    JobFacts,
    ManifestFacts,
    blobs_needed,
    manifests_to_remove,
)
from tunefleet_core.artifacts.sweeping import Sweep, SweepOrder

_BLOBS = [f"blob{number}" for number in range(6)]
_DIGESTS = [f"digest{number}" for number in range(8)]
_JOBS = [f"job{number}" for number in range(4)]
_CHECKPOINT = ArtifactKind.ARTIFACT_KIND_CHECKPOINT
_KINDS = (
    _CHECKPOINT,
    ArtifactKind.ARTIFACT_KIND_ADAPTER,
    ArtifactKind.ARTIFACT_KIND_MODEL,
    ArtifactKind.ARTIFACT_KIND_EVALUATION,
)

_digests = st.sets(st.sampled_from(_DIGESTS), max_size=3).map(frozenset)
_needs = st.sets(st.sampled_from(_DIGESTS + _BLOBS), max_size=3).map(frozenset)
_times = st.floats(min_value=0, max_value=100)


@st.composite
def _facts(draw: st.DrawFn) -> ArtifactFacts:
    jobs: dict[str, JobFacts] = {}
    for uid in draw(st.sets(st.sampled_from(_JOBS))):
        is_live = draw(st.booleans())
        jobs[uid] = JobFacts(
            uid=uid,
            name=uid,
            version=1,
            is_live=is_live,
            is_retryable=not is_live and draw(st.booleans()),
            end_time=0.0 if is_live else draw(_times),
            checkpoint_digest=draw(st.sampled_from([*_DIGESTS, ""])),
            output_digest=draw(st.sampled_from([*_DIGESTS, ""])),
            needs=draw(_needs),
        )
    manifests = [
        ManifestFacts(
            digest=digest,
            job_uid=draw(st.sampled_from(_JOBS)),
            kind=draw(st.sampled_from(_KINDS)),
            step=draw(st.integers(0, 9)),
            create_time=draw(_times),
            files=tuple((sha256, 1) for sha256 in draw(st.sets(st.sampled_from(_BLOBS), min_size=1))),
        )
        for digest in draw(st.sets(st.sampled_from(_DIGESTS)))
    ]
    return ArtifactFacts(
        manifests=tuple(manifests),
        jobs=jobs,
        models=draw(_digests),
        served=draw(_digests),
        datasets=draw(st.sets(st.sampled_from(_BLOBS), max_size=2).map(frozenset)),
        held=draw(_needs),
    )


@given(facts=_facts(), before=_times)
def test_nothing_that_something_needs_may_go(facts: ArtifactFacts, before: float) -> None:
    removed = manifests_to_remove(facts, before=before)
    kept_blobs = blobs_needed(facts, removed)
    gone = {(item.manifest.digest, item.manifest.job_uid) for item in removed}
    for manifest in facts.manifests:
        job = facts.jobs.get(manifest.job_uid)
        users = [other for other in facts.jobs.values() if other.is_live or other.is_retryable]
        is_needed = (
            manifest.digest in facts.models | facts.served | facts.held
            or any(manifest.digest in other.needs for other in users)
            or (job is not None and job.is_live)
            or (
                job is not None
                and job.end_time >= before
                and manifest.digest == job.checkpoint_digest
                and manifest.kind == _CHECKPOINT
            )
        )
        if is_needed:
            assert (manifest.digest, manifest.job_uid) not in gone
            assert {sha256 for sha256, _ in manifest.files} <= kept_blobs
    for job in facts.jobs.values():
        if job.is_live or job.is_retryable:
            assert {need for need in job.needs if need in _BLOBS} <= kept_blobs
    assert facts.datasets | (facts.held & frozenset(_BLOBS)) <= kept_blobs


def _checkpoint(digest: str, at: float) -> ManifestFacts:
    return ManifestFacts(
        digest=digest, job_uid="job0", kind=_CHECKPOINT, step=int(at), create_time=at, files=((digest, 1),)
    )


def test_a_failed_job_keeps_where_it_would_go_on_until_that_is_old() -> None:
    job = JobFacts(
        uid="job0",
        name="job0",
        version=1,
        is_live=False,
        is_retryable=True,
        end_time=30,
        checkpoint_digest="new",
    )
    facts = ArtifactFacts(manifests=(_checkpoint("old", 10), _checkpoint("new", 20)), jobs={"job0": job})
    assert [item.manifest.digest for item in manifests_to_remove(facts, before=25)] == ["old"]
    assert [item.manifest.digest for item in manifests_to_remove(facts, before=31)] == ["old", "new"]


def test_the_output_of_a_job_goes_once_its_model_is_deleted() -> None:
    output = ManifestFacts(
        digest="out",
        job_uid="job0",
        kind=ArtifactKind.ARTIFACT_KIND_ADAPTER,
        step=1,
        create_time=1,
        files=(("a", 1),),
    )
    job = JobFacts(uid="job0", name="job0", version=1, is_live=False, end_time=30, output_digest="out")
    with_model = ArtifactFacts(manifests=(output,), jobs={"job0": job}, models=frozenset({"out"}))
    assert manifests_to_remove(with_model, before=1000) == []
    without = ArtifactFacts(manifests=(output,), jobs={"job0": job})
    assert [item.reason for item in manifests_to_remove(without, before=0)] == ["its model was deleted"]


def _sweep(store: BlobStore, *, put_before: float, needed: frozenset[str] = frozenset(), **more: object):
    now = time.time()
    order = SweepOrder(needed=needed, put_before=put_before, never_after=now, **more)  # type: ignore[arg-type]
    return Sweep(store, order, is_trial=False).run()


def test_a_blob_that_is_put_while_old_ones_go_is_never_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put an old, unnamed blob again and again under a sweep that dawdles before it removes."""
    unlink = Path.unlink

    def dawdle(path: Path, missing_ok: bool = False) -> None:
        if len(path.name) == 64:
            time.sleep(0.002)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", dawdle)
    store = BlobStore(tmp_path / "artifacts")
    source = tmp_path / "source"
    source.write_bytes(b"rows")
    sha256 = hashlib.sha256(b"rows").hexdigest()
    stopping = threading.Event()
    swept: list[str] = []

    def sweep() -> None:
        while not stopping.is_set():
            items, _ = _sweep(store, put_before=time.time() - 60)
            swept.extend(item.name for item in items)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    lost = 0
    try:
        for _ in range(150):
            store.put_file(source)
            time.sleep(0.004)  # a removal that was decided before would have come by now
            lost += not store.path_of(sha256).is_file()
            os.utime(store.path_of(sha256), (1, 1))  # it is old from now on, and may go
            time.sleep(0.0005)
    finally:
        stopping.set()
        sweeper.join()
    assert lost == 0
    assert swept, "the sweep removed nothing, so nothing was tried"


def test_only_what_nothing_names_and_nobody_put_lately_goes(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "artifacts")
    digests: dict[str, str] = {}
    for name, age in (("needed", 9000), ("old", 9000), ("young", 10), ("released", 10), ("again", 10)):
        source = tmp_path / name
        source.write_text(name)
        digests[name], _ = store.put_file(source)
        source.unlink()
        os.utime(store.path_of(digests[name]), (time.time() - age,) * 2)
    store.uploads.mkdir()
    (store.uploads / "partial").write_bytes(b"x" * 7)
    now = time.time()
    released = {digests["released"]: now - 5, digests["again"]: now - 20}
    items, freed = _sweep(
        store,
        put_before=now - 3600,
        needed=frozenset({digests["needed"]}),
        released=released,
        stale_before=now + 10,
    )
    assert {(item.kind, item.name) for item in items} == {
        ("blob", digests["old"]),
        ("blob", digests["released"]),
        ("upload", "partial"),
    }
    assert freed == len("old") + len("released") + 7
    assert store.path_of(digests["again"]).exists(), "it was put after the manifest that named it"


def test_a_trial_tells_the_same_and_removes_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "artifacts")
    source = tmp_path / "source"
    source.write_text("rows")
    sha256, _ = store.put_file(source)
    folder = tmp_path / "runs" / "job-1"
    folder.mkdir(parents=True)
    os.link(store.path_of(sha256), folder / "weights")
    source.unlink()
    os.utime(store.path_of(sha256), (1, 1))
    order = SweepOrder(needed=frozenset(), put_before=10, never_after=time.time(), run_folders=(folder,))
    told = Sweep(store, order, is_trial=True).run()
    assert store.path_of(sha256).exists()
    assert folder.exists()
    done = Sweep(store, order, is_trial=False).run()
    assert told == done
    assert done[1] == 4, "both names of one content count once"
    assert not folder.exists()
