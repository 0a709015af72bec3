"""Rows go up and artifacts come down; what goes wrong with files here is a typed error too."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind, File, Manifest
from tunefleet_client import AlreadyExists, InvalidArgument, NotFound, ResourceExhausted, connect
from tunefleet_client.errors import at_path
from tunefleet_client.testing import FakeCoordinator
from tunefleet_core.artifacts import manifest_digest
from tunefleet_core.errors import Reason

ROWS = '{"messages": []}\n' * 3


def add_artifact(fake: FakeCoordinator, **files: bytes) -> str:
    """Add an artifact and return the digest of its manifest."""
    manifest = Manifest(kind=ArtifactKind.ARTIFACT_KIND_ADAPTER)
    for path, content in sorted(files.items()):
        sha256 = hashlib.sha256(content).hexdigest()
        fake.blobs[sha256] = content
        manifest.files.append(File(path=path, size_bytes=len(content), sha256=sha256))
    manifest.digest = manifest_digest(manifest)
    fake.manifests[manifest.digest] = manifest
    return manifest.digest


async def test_rows_are_sent_once_and_become_a_dataset(fake: FakeCoordinator, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(ROWS)
    async with connect(fake.address, fake.token) as client:
        dataset = await client.datasets.create("tickets", path, labels={"team": "a"})
        assert (dataset.rows, dict(dataset.labels)) == (3, {"team": "a"})
        assert fake.blobs[dataset.sha256] == ROWS.encode()
        path.write_text(ROWS * 2)
        with pytest.raises(AlreadyExists):
            await client.datasets.create("tickets", path)
        assert [item.name for item in await client.datasets.list()] == ["projects/default/datasets/tickets"]
        await client.datasets.delete("tickets")
        with pytest.raises(NotFound):
            await client.datasets.get("tickets")


async def test_an_artifact_comes_whole_into_a_folder(fake: FakeCoordinator, tmp_path: Path) -> None:
    digest = add_artifact(fake, a=b"one" * 1000, b=b"")
    async with connect(fake.address, fake.token) as client:
        await client.artifacts.fetch(digest, tmp_path / "adapter")
        assert (tmp_path / "adapter" / "a").read_bytes() == b"one" * 1000
        assert (tmp_path / "adapter" / "b").read_bytes() == b""
        with pytest.raises(InvalidArgument, match="there already"):
            await client.artifacts.fetch(digest, tmp_path / "adapter")


async def test_a_path_that_leaves_the_folder_is_refused(fake: FakeCoordinator, tmp_path: Path) -> None:
    digest = add_artifact(fake, **{"../out": b"x"})
    async with connect(fake.address, fake.token) as client:
        with pytest.raises(InvalidArgument):
            await client.artifacts.fetch(digest, tmp_path / "adapter")
    assert not (tmp_path / "out").exists()


async def test_files_that_cannot_be_used_are_typed_errors(fake: FakeCoordinator, tmp_path: Path) -> None:
    digest = add_artifact(fake, a=b"one")
    (tmp_path / "file").write_text("")
    async with connect(fake.address, fake.token) as client:
        with pytest.raises(InvalidArgument, match="cannot be"):
            await client.artifacts.fetch(digest, tmp_path / "file" / "adapter")
        with pytest.raises(InvalidArgument, match="cannot be read"):
            await client.transfers.upload(tmp_path / "none")
        with pytest.raises(InvalidArgument):
            await client.transfers.download("no digest", tmp_path / "x")
        with pytest.raises(NotFound):
            await client.transfers.download("0" * 64, tmp_path / "x")


async def test_a_file_travels_to_a_blobs_process_that_takes_no_open_files(
    fake: FakeCoordinator, tmp_path: Path
) -> None:
    content = random.Random(1).randbytes(9 << 20)
    (tmp_path / "source").write_bytes(content)
    async with connect(fake.address, fake.token) as client:
        sha256 = await client.transfers.upload(tmp_path / "source")
        assert sha256 == hashlib.sha256(content).hexdigest()
        await client.transfers.download(sha256, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == content


def test_a_full_disk_is_named_and_other_errors_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ResourceExhausted) as caught, at_path(tmp_path):
        raise OSError(28, "No space left on device", str(tmp_path / "x"))
    assert caught.value.reason is Reason.DISK_FULL
    with pytest.raises(ZeroDivisionError), at_path(tmp_path):
        raise ZeroDivisionError
