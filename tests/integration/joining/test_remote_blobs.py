"""The store of another machine, over mutual TLS: what is put is there, and what is laid out is right."""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path

import pytest
from joined_fleet import JoinedFleet

from tunefleet.artifact.v1.artifact_pb2 import File, Manifest
from tunefleet_core.artifacts import BlobStore, sha256_of_file
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_services.control import remote_blobs
from tunefleet_services.control.remote_blobs import RemoteBlobs
from tunefleet_services.joining import join_fleet

MIB = 1 << 20


async def _remote(fleet: JoinedFleet, folder: Path) -> RemoteBlobs:
    await fleet.start_blobs()
    member = await join_fleet(await fleet.invite("trainer"), folder, kind="trainer", name="far")
    return RemoteBlobs(fleet.member_blob_address, member.channel_tls, threading.Event())


def _file(path: Path, size_bytes: int, seed: int) -> Path:
    path.write_bytes(random.Random(seed).randbytes(size_bytes))
    return path


def _partials(store: BlobStore) -> list[Path]:
    return list(store.uploads.glob("*"))


async def test_a_digest_is_made_here_only_where_it_has_something_to_tell(
    fleet: JoinedFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, store = await _remote(fleet, tmp_path / "far"), BlobStore(fleet.state / "artifacts")
    made: list[Path] = []

    def counted(path: Path) -> str:
        made.append(path)
        return sha256_of_file(path)

    monkeypatch.setattr(remote_blobs, "sha256_of_file", counted)
    sizes = (0, 1, 127, 128, MIB - 1, MIB, MIB + 1, 3 * MIB + 17)
    files = [_file(tmp_path / str(size), size, size) for size in sizes]
    for file in files:
        digest, size_bytes = await asyncio.to_thread(remote.put_file, file)
        assert (digest, size_bytes) == (sha256_of_file(file), file.stat().st_size)
        assert sha256_of_file(store.path_of(digest)) == digest
    assert made == [files[0]], "nothing of these sizes was there; an empty file has none"
    again = _file(tmp_path / "again", sizes[-1], 1)
    digest, _ = await asyncio.to_thread(remote.put_file, again)
    same, _ = await asyncio.to_thread(remote.put_file, files[-1])
    assert made[1:] == [again, files[-1]]
    assert (digest, same) == (sha256_of_file(again), sha256_of_file(files[-1]))
    manifest = Manifest(
        digest="0" * 64,
        files=[File(path=f"in/{file.name}", sha256=sha256_of_file(file)) for file in files],
    )
    folder = await asyncio.to_thread(remote.materialise, manifest, tmp_path / "laid-out")
    assert [(folder / "in" / file.name).read_bytes() == file.read_bytes() for file in files] == [True] * 8
    assert _partials(store) == []
    store.path_of(digest).write_bytes(b"damaged")
    damaged = Manifest(digest="0" * 64, files=[File(path="again", sha256=digest)])
    with pytest.raises(TunefleetError) as refused:
        await asyncio.to_thread(remote.materialise, damaged, tmp_path / "never")
    assert refused.value.reason is Reason.MANIFEST_NOT_FOUND


@pytest.mark.parametrize(("kills", "mebibytes"), [(2, 24), pytest.param(8, 96, marks=pytest.mark.slow)])
async def test_kills_at_random_moments_are_waited_out_both_ways(
    fleet: JoinedFleet, tmp_path: Path, kills: int, mebibytes: int
) -> None:
    chosen = random.Random(kills)
    remote, store = await _remote(fleet, tmp_path / "far"), BlobStore(fleet.state / "artifacts")
    cut = 0
    for seed in range(kills):
        source = _file(tmp_path / "source", mebibytes * MIB, seed)
        putting = asyncio.ensure_future(asyncio.to_thread(remote.put_file, source))
        begun = chosen.random() * mebibytes * MIB
        while not putting.done() and sum(path.stat().st_size for path in _partials(store)) < begun:
            await asyncio.sleep(0.002)
        await fleet.kill("blobs")
        cut += any(path.stat().st_size for path in _partials(store))
        await fleet.start_blobs()
        digest, size_bytes = await putting
        assert (digest, size_bytes) == (sha256_of_file(source), mebibytes * MIB)
        assert sha256_of_file(store.path_of(digest)) == digest
        target = tmp_path / "target"
        fetching = asyncio.ensure_future(asyncio.to_thread(remote.fetch, digest, target))
        partial = tmp_path / ".target.partial"
        while not fetching.done() and (not partial.exists() or partial.stat().st_size < begun):
            await asyncio.sleep(0.002)
        await fleet.kill("blobs")
        await fleet.start_blobs()
        assert sha256_of_file(await fetching) == digest
        assert not partial.exists()
    assert cut, "none of them was cut on the way"
    assert _partials(store) == []
