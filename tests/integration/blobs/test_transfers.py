"""Blobs over real processes: whole, once, and gone on with after every cut."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import random
import signal
from pathlib import Path

import grpc.aio
import pytest
from blobs_process import BlobsProcess

from tunefleet.artifact.v1 import blob_service_pb2 as wire
from tunefleet.artifact.v1.blob_service_pb2_grpc import BlobServiceStub
from tunefleet_client.sources import Source
from tunefleet_core.artifacts import sha256_of_file
from tunefleet_core.errors import Reason, TunefleetError, error_from_trailing_metadata

MIB = 1 << 20


def _file(path: Path, size_bytes: int, seed: int = 1) -> Path:
    source = random.Random(seed)
    with path.open("wb") as stream:
        while size_bytes > 0:
            piece = source.randbytes(min(size_bytes, MIB))
            stream.write(piece)
            size_bytes -= len(piece)
    return path


async def test_a_file_goes_up_and_comes_down_the_same(blobs: BlobsProcess, tmp_path: Path) -> None:
    source = _file(tmp_path / "source", 5 * MIB + 17)
    told: list[tuple[int, int]] = []
    async with blobs.transfers() as transfers:
        sha256 = await transfers.upload(source, progress=lambda done, total: told.append((done, total)))
        target = await transfers.download(sha256, tmp_path / "below" / "target")
        again: list[int] = []
        assert await transfers.upload(source, progress=lambda done, _: again.append(done)) == sha256
    assert sha256 == sha256_of_file(source) == sha256_of_file(target)
    assert told[-1] == (source.stat().st_size, source.stat().st_size)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert again == [source.stat().st_size], "a blob that is there is not sent again"
    assert blobs.partials() == []
    assert [path.name for path in target.parent.iterdir()] == ["target"]


async def test_an_empty_file_is_a_blob_too(blobs: BlobsProcess, tmp_path: Path) -> None:
    source = _file(tmp_path / "source", 0)
    async with blobs.transfers() as transfers:
        target = await transfers.download(await transfers.upload(source), tmp_path / "target")
    assert target.read_bytes() == b""


@pytest.mark.parametrize("mebibytes", [8, pytest.param(20, marks=pytest.mark.slow)])
async def test_two_clients_send_one_blob_at_once(blobs: BlobsProcess, tmp_path: Path, mebibytes: int) -> None:
    source = _file(tmp_path / "source", mebibytes * MIB)
    async with blobs.transfers() as one, blobs.transfers() as two:
        async with asyncio.TaskGroup() as group:
            sent = [group.create_task(client.upload(source)) for client in (one, two, one, two)]
        assert {task.result() for task in sent} == {sha256_of_file(source)}
    assert sha256_of_file(blobs.store.path_of(sent[0].result())) == sent[0].result()
    assert blobs.partials() == []


@pytest.mark.parametrize("direction", ["upload", pytest.param("download", marks=pytest.mark.slow)])
async def test_a_transfer_survives_kills_of_the_process(
    blobs: BlobsProcess, tmp_path: Path, direction: str
) -> None:
    await _survive(blobs, tmp_path, direction, size_bytes=12 * MIB, cuts=2, seed=3)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.slow
@pytest.mark.parametrize("direction", ["upload", "download"])
async def test_twenty_cuts_at_random_offsets_of_64_megabytes(
    blobs: BlobsProcess, tmp_path: Path, direction: str
) -> None:
    await _survive(blobs, tmp_path, direction, size_bytes=64 * MIB, cuts=20, seed=20)


class _Cut(Exception):
    """The client is gone."""


class _CutAt:
    """Progress that cuts at an offset: kills the process, or raises as a client that dies."""

    def __init__(self, offset: int, blobs: BlobsProcess, *, is_client: bool) -> None:
        self.event = asyncio.Event()
        self._offset = offset
        self._blobs = blobs
        self._is_client = is_client

    def __call__(self, done: int, _: int) -> None:
        if done < self._offset or self.event.is_set():
            return
        self.event.set()
        if self._is_client:
            raise _Cut
        os.kill(self._blobs.pid, signal.SIGKILL)


async def _survive(
    blobs: BlobsProcess, tmp_path: Path, direction: str, *, size_bytes: int, cuts: int, seed: int
) -> None:
    """Cut a transfer at random offsets, the process and the client in turn, by new clients each."""
    chosen = random.Random(seed)
    source = _file(tmp_path / "source", size_bytes, seed)
    sha256 = sha256_of_file(source)
    target = tmp_path / "target"

    async def transfer(progress: _CutAt | None) -> None:
        async with blobs.transfers() as transfers:
            if direction == "upload":
                assert await transfers.upload(source, progress=progress) == sha256
            else:
                await transfers.download(sha256, target, progress=progress)

    if direction == "download":
        async with blobs.transfers() as transfers:
            await transfers.upload(source)
    # A cut after the last piece has left would cut nothing.
    for made, offset in enumerate(sorted(chosen.randrange(size_bytes * 9 // 10) for _ in range(cuts))):
        cut = _CutAt(offset, blobs, is_client=made % 2 == 1)
        work = asyncio.ensure_future(transfer(cut))
        async with asyncio.timeout(60):
            await cut.event.wait()
        if made % 2:
            with pytest.raises(_Cut):
                await work
        await blobs.restart()
        work.cancel()
        await asyncio.wait((work,))
    await transfer(None)
    if direction == "upload":
        assert sha256_of_file(blobs.store.path_of(sha256)) == sha256
    else:
        assert sha256_of_file(target) == sha256
    assert blobs.partials() == []
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    await blobs.closes_all_files()


async def test_a_client_that_goes_on_waits_out_the_death_of_the_process(
    blobs: BlobsProcess, tmp_path: Path
) -> None:
    source = _file(tmp_path / "source", 24 * MIB)
    first: list[int] = []
    reached = asyncio.Event()

    def progress(done: int, _: int) -> None:
        first.append(done)
        if done >= 8 * MIB:
            reached.set()

    async with blobs.transfers() as transfers:
        work = asyncio.ensure_future(transfers.upload(source, progress=progress))
        async with asyncio.timeout(60):
            await reached.wait()
        await blobs.restart()
        assert await work == sha256_of_file(source)
    starts_again = [after for before, after in itertools.pairwise(first) if after <= before]
    assert starts_again, "the kill came too late to cut anything"
    assert min(starts_again) > 0, "it began again instead of going on"


async def test_wrong_bytes_are_refused_and_nothing_is_kept(blobs: BlobsProcess) -> None:
    wanted = hashlib.sha256(b"right").hexdigest()
    error = await _upload_by_hand(blobs, wire.UploadStart(sha256=wanted, size_bytes=5), b"wrong")
    assert error is not None
    assert error.reason is Reason.DIGEST_MISMATCH
    assert blobs.partials() == []
    assert not blobs.store.path_of(wanted).exists()


async def test_a_wrong_digest_that_is_told_at_the_end_is_refused_too(blobs: BlobsProcess) -> None:
    wanted = hashlib.sha256(b"right").hexdigest()
    start = wire.UploadStart(upload_id="1" * 64, size_bytes=5)
    late = wire.UploadBlobRequest(sha256=wanted)
    error = await _upload_by_hand(blobs, start, b"wrong", late)
    assert error is not None
    assert error.reason is Reason.DIGEST_MISMATCH
    assert blobs.partials() == []
    assert await _upload_by_hand(blobs, start, b"right", late) is None
    assert sha256_of_file(blobs.store.path_of(wanted)) == wanted


async def test_an_upload_without_a_digest_is_named_by_the_one_it_has(blobs: BlobsProcess) -> None:
    start = wire.UploadStart(upload_id="1" * 64, size_bytes=5)
    error = await _upload_by_hand(blobs, start, b"rig")
    assert error is not None
    assert (error.reason, error.violations[0].field) == (Reason.FIELD_INVALID, "start.size_bytes")
    assert not (blobs.store.root / "sha256").exists()

    start.offset = 3  # what goes on may stand behind bytes that were spoilt meanwhile
    error = await _upload_by_hand(blobs, start, b"ht")
    assert error is not None
    assert (error.reason, error.violations[0].field) == (Reason.FIELD_INVALID, "sha256")

    whole = wire.UploadStart(upload_id="2" * 64, size_bytes=5)
    assert await _upload_by_hand(blobs, whole, b"right") is None
    assert blobs.store.path_of(hashlib.sha256(b"right").hexdigest()).read_bytes() == b"right"


async def test_a_digest_is_made_before_sending_only_where_something_of_that_size_is(
    blobs: BlobsProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    whole = Source.begin_digest
    monkeypatch.setattr(Source, "begin_digest", lambda self: made.append(self.path) or whole(self))
    source = _file(tmp_path / "source", 16 * MIB)
    async with blobs.transfers(may_hand_over=False) as transfers:
        sha256 = await transfers.upload(source)
        assert made == []
        assert sha256 == sha256_of_file(source) == sha256_of_file(blobs.store.path_of(sha256))
        told: list[int] = []
        assert await transfers.upload(source, progress=lambda done, _: told.append(done)) == sha256
        assert made
        assert blobs.partials() == []

        made.clear()
        other = _file(tmp_path / "other", 16 * MIB, seed=2)
        assert await transfers.upload(other) == sha256_of_file(other) != sha256
        assert made


async def test_a_digest_that_is_told_of_a_blob_that_is_there_ends_the_upload(blobs: BlobsProcess) -> None:
    start = wire.UploadStart(sha256=hashlib.sha256(b"right").hexdigest(), size_bytes=5)
    assert await _upload_by_hand(blobs, start, b"right") is None
    late = wire.UploadBlobRequest(sha256=start.sha256)
    again = wire.UploadStart(upload_id="1" * 64, size_bytes=5)
    assert await _upload_by_hand(blobs, again, b"ri", late) is None, "the other three bytes are not asked for"
    assert blobs.partials() == []


async def test_a_file_that_changes_while_it_is_sent_is_no_blob(blobs: BlobsProcess, tmp_path: Path) -> None:
    source = _file(tmp_path / "source", 16 * MIB)
    changed: list[int] = []

    def change(done: int, _: int) -> None:
        if done >= 4 * MIB and not changed:
            changed.append(done)
            with source.open("r+b") as stream:
                stream.write(b"another row")

    async with blobs.transfers() as transfers:
        with pytest.raises(TunefleetError) as raised:
            await transfers.upload(source, progress=change)
        assert raised.value.reason is Reason.DIGEST_MISMATCH
        assert "changed while it was sent" in raised.value.message
        sha256 = await transfers.upload(source)
    assert sha256 == sha256_of_file(source) == sha256_of_file(blobs.store.path_of(sha256))


@pytest.mark.slow
async def test_memory_stays_flat_however_large_a_file_is(blobs: BlobsProcess, tmp_path: Path) -> None:
    async with blobs.transfers() as transfers:
        await transfers.upload(_file(tmp_path / "first", 64 * MIB))
        before = blobs.most_memory_bytes()
        large = await transfers.upload(_file(tmp_path / "large", 1024 * MIB, seed=2))
        await transfers.download(large, tmp_path / "target")
    assert blobs.most_memory_bytes() - before < 64 * MIB


async def test_more_bytes_than_announced_are_refused_and_nothing_is_kept(blobs: BlobsProcess) -> None:
    wanted = hashlib.sha256(b"right").hexdigest()
    error = await _upload_by_hand(blobs, wire.UploadStart(sha256=wanted, size_bytes=4), b"right")
    assert error is not None
    assert error.reason is Reason.DIGEST_MISMATCH
    assert blobs.partials() == []


async def test_an_offset_that_is_not_where_the_upload_stands_is_refused(blobs: BlobsProcess) -> None:
    wanted = hashlib.sha256(b"right").hexdigest()
    error = await _upload_by_hand(blobs, wire.UploadStart(sha256=wanted, size_bytes=5, offset=3), b"ht")
    assert error is not None
    assert error.reason is Reason.UPLOAD_MOVED
    assert error.metadata["size_bytes"] == "0"


@pytest.mark.parametrize("sha256", ["../" * 21 + "e", "A" * 64, "", "0" * 63 + "/"])
async def test_a_digest_that_could_be_a_path_is_refused(blobs: BlobsProcess, sha256: str) -> None:
    error = await _upload_by_hand(blobs, wire.UploadStart(sha256=sha256, size_bytes=1), b"x")
    assert error is not None
    assert error.reason is Reason.FIELD_INVALID
    async with blobs.transfers() as transfers:
        with pytest.raises(TunefleetError) as raised:
            await transfers.download(sha256, blobs.state / "target")
    assert raised.value.reason is Reason.FIELD_INVALID


async def test_a_blob_that_is_not_there_is_not_found(blobs: BlobsProcess, tmp_path: Path) -> None:
    async with blobs.transfers() as transfers:
        with pytest.raises(TunefleetError) as raised:
            await transfers.download("0" * 64, tmp_path / "target")
    assert raised.value.reason is Reason.BLOB_NOT_FOUND
    assert list(tmp_path.glob("*target*")) == []


async def test_a_damaged_blob_never_becomes_a_file(blobs: BlobsProcess, tmp_path: Path) -> None:
    source = _file(tmp_path / "source", 3 * MIB)
    async with blobs.transfers() as transfers:
        sha256 = await transfers.upload(source)
        with blobs.store.path_of(sha256).open("r+b") as stream:
            stream.write(b"damage")
        with pytest.raises(TunefleetError) as raised:
            await transfers.download(sha256, tmp_path / "target")
    assert raised.value.reason is Reason.DIGEST_MISMATCH
    assert not (tmp_path / "target").exists()


async def test_a_call_without_the_token_is_refused(blobs: BlobsProcess) -> None:
    async with grpc.aio.insecure_channel(blobs.address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = BlobServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.GetBlob(wire.GetBlobRequest(sha256="0" * 64), timeout=10)
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        metadata = (("authorization", "Bearer guess"),)
        with pytest.raises(grpc.aio.AioRpcError) as streamed:
            async for _ in stub.DownloadBlob(
                wire.DownloadBlobRequest(sha256="0" * 64), metadata=metadata, timeout=10
            ):
                pass
        assert streamed.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_second_process_on_the_same_store_is_refused(blobs: BlobsProcess) -> None:
    second = BlobsProcess(blobs.state)
    with pytest.raises(AssertionError, match="is held by the blobs process with process id"):
        await second.start()


async def _upload_by_hand(
    blobs: BlobsProcess, start: wire.UploadStart, content: bytes, *more: wire.UploadBlobRequest
) -> TunefleetError | None:
    async def requests():
        yield wire.UploadBlobRequest(start=start)
        yield wire.UploadBlobRequest(chunk=content)
        for request in more:
            yield request

    options = [("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(blobs.address, options=options) as channel:
        metadata = (("authorization", f"Bearer {blobs.token}"),)
        try:
            await BlobServiceStub(channel).UploadBlob(requests(), metadata=metadata, timeout=30)
        except grpc.aio.AioRpcError as error:
            classed = error_from_trailing_metadata(error.trailing_metadata())
            if classed is None:  # nobody's refusal: the call itself failed
                raise
            return classed
    return None
