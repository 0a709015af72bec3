"""Partial blobs: who may write them, when they count, and what is left of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tunefleet_core.artifacts import BlobStore, Uploads, Watermark
from tunefleet_core.errors import Reason, TunefleetError

CONTENT = b"some rows" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "artifacts")


def _files(store: BlobStore) -> list[str]:
    found = [path for path in store.root.rglob("*") if path.is_file()]
    return sorted(path.name for path in found if path.name != "prune.lock")


def test_an_upload_goes_on_in_another_process(store: BlobStore) -> None:
    first = Uploads(store).begin(SHA256, "ann", size_bytes=len(CONTENT), offset=0)
    first.write([CONTENT[:4000]])
    first.close()
    later = Uploads(store)  # as after a kill: nothing is remembered but the disk
    assert later.size_of(SHA256, "ann") == 4000
    second = later.begin(SHA256, "ann", size_bytes=len(CONTENT), offset=4000)
    second.write([CONTENT[4000:]])
    assert second.finish(SHA256) == len(CONTENT)
    second.close()
    assert _files(store) == [SHA256]
    assert store.path_of(SHA256).read_bytes() == CONTENT


def test_the_newest_call_owns_the_partial(store: BlobStore) -> None:
    uploads = Uploads(store)
    old = uploads.begin(SHA256, "ann", size_bytes=len(CONTENT), offset=0)
    old.write([CONTENT[:4000]])
    new = uploads.begin(SHA256, "ann", size_bytes=len(CONTENT), offset=4000)
    with pytest.raises(TunefleetError) as raised:
        old.write([b"late"])
    assert raised.value.reason is Reason.UPLOAD_MOVED
    new.write([CONTENT[4000:]])
    old.close()
    new.finish(SHA256)
    new.close()
    assert store.path_of(SHA256).read_bytes() == CONTENT


def test_nobody_can_spoil_the_bytes_of_another(store: BlobStore) -> None:
    uploads = Uploads(store)
    bad = uploads.begin(SHA256, "eve", size_bytes=len(CONTENT), offset=0)
    bad.write([b"x" * 4000])
    bad.close()
    assert uploads.size_of(SHA256, "ann") == 0
    good = uploads.begin(SHA256, "ann", size_bytes=len(CONTENT), offset=0)
    good.write([CONTENT])
    good.finish(SHA256)
    good.close()
    assert store.path_of(SHA256).read_bytes() == CONTENT


def test_wrong_content_leaves_nothing(store: BlobStore) -> None:
    upload = Uploads(store).begin(SHA256, "ann", size_bytes=5, offset=0)
    upload.write([b"wrong"])
    with pytest.raises(TunefleetError) as raised:
        upload.finish(SHA256)
    upload.close()
    assert raised.value.reason is Reason.DIGEST_MISMATCH
    assert _files(store) == []


def test_a_disk_that_runs_full_leaves_nothing(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = Uploads(store).begin(SHA256, "ann", size_bytes=len(CONTENT), offset=0)
    upload.write([CONTENT[:100]])

    def full(descriptor: int, piece: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left") as raised:
            upload.write([CONTENT[100:]])
    upload.close()
    assert str(store.uploads) in str(raised.value.filename)
    assert _files(store) == []


def test_a_file_that_is_copied_goes_on_in_another_process(store: BlobStore, tmp_path: Path) -> None:
    content = os.urandom(3_500_000)
    sha256 = hashlib.sha256(content).hexdigest()
    (tmp_path / "source").write_bytes(content)
    descriptor = os.open(tmp_path / "source", os.O_RDONLY)
    first = Uploads(store).begin("1" * 64, "ann", size_bytes=len(content), offset=0)
    assert first.write_from(descriptor, 1_200_000) == 1_200_000
    first.close()
    second = Uploads(store).begin("1" * 64, "ann", size_bytes=len(content), offset=1_200_000)
    assert second.write_from(descriptor, 1 << 30) == 2_300_000
    assert second.write_from(descriptor, 1 << 30) == 0
    assert second.hexdigest() == sha256
    second.finish(sha256)
    second.close()
    os.close(descriptor)
    assert store.path_of(sha256).read_bytes() == content


def test_a_disk_that_runs_full_while_a_file_is_copied_leaves_nothing(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(3_500_000)
    (tmp_path / "source").write_bytes(content)
    upload = Uploads(store).begin("1" * 64, "ann", size_bytes=len(content), offset=0)
    real, written = os.write, 0

    def full(descriptor: int, piece: bytes) -> int:
        nonlocal written
        written += len(piece)
        if written > 2_000_000:
            raise OSError(28, "No space left on device")
        return real(descriptor, piece)

    with (tmp_path / "source").open("rb") as source, monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left") as raised:
            upload.write_from(source.fileno(), 1 << 30)
    upload.close()
    assert str(store.uploads) in str(raised.value.filename)
    assert _files(store) == []


def test_putting_a_blob_again_makes_it_new(store: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    store.put_file(source)
    os.utime(store.path_of(SHA256), (1, 1))
    other = tmp_path / "other"
    other.write_bytes(CONTENT)
    store.put_file(other)
    assert store.path_of(SHA256).stat().st_mtime > 1_000_000


def test_work_that_leaves_too_little_free_is_refused(tmp_path: Path) -> None:
    free, _ = Watermark(folder=tmp_path).free_and_least()
    Watermark(folder=tmp_path, least_bytes=free // 2).require()
    with pytest.raises(TunefleetError) as raised:
        Watermark(folder=tmp_path, least_bytes=free // 2).require(needed_bytes=free)
    assert raised.value.reason is Reason.DISK_FULL
    assert raised.value.metadata["path"] == str(tmp_path)
    assert "tunefleet prune" in raised.value.hint
