"""Blobs on one host: an open file is passed, and what becomes of it is checked as if it had travelled."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import stat
import threading
from pathlib import Path

import grpc.aio
import pytest
from blobs_process import BlobsProcess

from tunefleet.artifact.v1 import blob_service_pb2 as wire
from tunefleet.artifact.v1.blob_service_pb2_grpc import BlobServiceStub
from tunefleet_client.blob_calls import BlobCalls
from tunefleet_client.channels import Channels
from tunefleet_client.handover import pass_file, take_file
from tunefleet_client.transfers import Transfers
from tunefleet_core.artifacts import sha256_of_file
from tunefleet_core.errors import Reason, TunefleetError, error_from_trailing_metadata

MIB = 1 << 20


def _file(path: Path, size_bytes: int, seed: int = 1) -> Path:
    source = random.Random(seed)
    with path.open("wb") as stream:
        while size_bytes > 0:
            size_bytes -= stream.write(source.randbytes(min(size_bytes, MIB)))
    return path


@pytest.fixture
def no_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object, **__: object) -> None:
        raise AssertionError("the bytes travelled as pieces")

    monkeypatch.setattr(Transfers, "_send_pieces", never)
    monkeypatch.setattr(Transfers, "_receive_pieces", never)


@pytest.mark.usefixtures("no_pieces")
async def test_a_file_is_passed_and_taken_without_travelling(blobs: BlobsProcess, tmp_path: Path) -> None:
    source = _file(tmp_path / "source", 20 * MIB + 17)
    told: list[tuple[int, int]] = []
    async with blobs.transfers(may_hand_over=True) as transfers:
        sha256 = await transfers.upload(source, progress=lambda done, total: told.append((done, total)))
        assert sha256 == sha256_of_file(source) == sha256_of_file(blobs.store.path_of(sha256))
        assert blobs.store.path_of(sha256).stat().st_ino != source.stat().st_ino, "a copy, not a link"
        target = await transfers.download(sha256, tmp_path / "below" / "target")
        assert sha256_of_file(target) == sha256
        assert await transfers.upload(source) == sha256
    assert told[0] == (0, source.stat().st_size)
    assert told[-1] == (source.stat().st_size, source.stat().st_size)
    assert blobs.partials() == []
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    await blobs.closes_all_files()


@pytest.mark.usefixtures("no_pieces")
@pytest.mark.parametrize(("kills", "mebibytes"), [(2, 48), pytest.param(12, 96, marks=pytest.mark.slow)])
async def test_kills_at_random_moments_leave_a_whole_blob_or_none(
    blobs: BlobsProcess, tmp_path: Path, kills: int, mebibytes: int
) -> None:
    chosen = random.Random(kills)
    source = _file(tmp_path / "source", mebibytes * MIB)
    sha256 = sha256_of_file(source)
    for _ in range(kills):
        blobs.store.path_of(sha256).unlink(missing_ok=True)
        async with blobs.transfers(may_hand_over=True) as transfers:
            work = asyncio.ensure_future(transfers.upload(source))
            await asyncio.sleep(chosen.random() * mebibytes / 1000)
            os.kill(blobs.pid, signal.SIGKILL)
            whole = [path for path in blobs.store.root.glob("sha256/*/*") if len(path.name) == 64]
            assert [path.name for path in whole] in ([], [sha256])
            assert all(sha256_of_file(path) == path.name for path in whole)
            await blobs.restart()
            assert await work == sha256
        assert sha256_of_file(blobs.store.path_of(sha256)) == sha256
        assert blobs.partials() == []


@pytest.mark.usefixtures("no_pieces")
async def test_a_cancelled_upload_leaves_no_open_file_and_is_gone_on_with(
    blobs: BlobsProcess, tmp_path: Path
) -> None:
    source = _file(tmp_path / "source", 100 * MIB)
    async with blobs.transfers(may_hand_over=True) as transfers:
        work = asyncio.ensure_future(transfers.upload(source))
        async with asyncio.timeout(60):
            while not any(path.stat().st_size for path in blobs.partials()):
                await asyncio.sleep(0.002)
        work.cancel()
        await asyncio.wait((work,))
        await blobs.closes_all_files()
        assert await transfers.upload(source) == sha256_of_file(source)


async def test_a_file_that_changes_while_it_is_copied_is_caught(blobs: BlobsProcess, tmp_path: Path) -> None:
    source = _file(tmp_path / "source", 64 * MIB)
    is_over = threading.Event()

    def write_on() -> None:
        with source.open("r+b") as stream:
            while not is_over.wait(0.001):
                stream.seek(random.randrange(64 * MIB))
                stream.write(b"another row")
                stream.flush()

    writing = asyncio.get_running_loop().run_in_executor(None, write_on)
    try:
        async with blobs.transfers(may_hand_over=True) as transfers:
            with pytest.raises(TunefleetError) as raised:
                await transfers.upload(source)
    finally:
        is_over.set()
        await writing
    assert raised.value.reason is Reason.DIGEST_MISMATCH
    assert "changed while it was sent" in raised.value.message
    for path in blobs.store.root.glob("sha256/*/*"):
        assert sha256_of_file(path) == path.name, "what is there is what its name says, whoever wrote"


async def test_a_damaged_blob_that_is_taken_never_becomes_a_file(blobs: BlobsProcess, tmp_path: Path) -> None:
    source = _file(tmp_path / "source", 9 * MIB)
    async with blobs.transfers(may_hand_over=True) as transfers:
        sha256 = await transfers.upload(source)
        with blobs.store.path_of(sha256).open("r+b") as stream:
            stream.write(b"damage")
        with pytest.raises(TunefleetError) as raised:
            await transfers.download(sha256, tmp_path / "target")
        assert raised.value.reason is Reason.DIGEST_MISMATCH
        with pytest.raises(TunefleetError) as missing:
            await transfers.download("0" * 64, tmp_path / "target")
        assert missing.value.reason is Reason.BLOB_NOT_FOUND
    assert [path.name for path in tmp_path.iterdir() if "target" in path.name] == []


async def test_without_the_socket_the_bytes_travel(blobs: BlobsProcess, tmp_path: Path) -> None:
    sock = blobs.state / "blobs.sock"
    assert stat.S_IMODE(sock.stat().st_mode) == 0o600
    sock.unlink()
    source = _file(tmp_path / "source", 9 * MIB)
    async with blobs.transfers(may_hand_over=True) as transfers:
        sha256 = await transfers.upload(source)
        assert sha256_of_file(await transfers.download(sha256, tmp_path / "target")) == sha256


async def test_a_ticket_is_good_once_and_for_a_regular_file_of_the_size(
    blobs: BlobsProcess, tmp_path: Path
) -> None:
    source = _file(tmp_path / "source", MIB)
    os.mkfifo(tmp_path / "pipe")
    channels = Channels(None)
    calls = BlobCalls(blobs.connection(channels))
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    file = os.open(source, os.O_RDONLY)
    try:
        for descriptor, size_bytes in ((reader, 0), (file, 5)):
            ticket = await pass_file(calls, descriptor)
            assert await _refused(blobs, ticket, size_bytes), "no such file"
        ticket = await pass_file(calls, file)
        assert not await _refused(blobs, ticket, MIB)
        assert await _refused(blobs, ticket, MIB), "it was used"
        assert await _refused(blobs, "0" * 64, MIB), "nobody gave it"
        taken = await take_file(calls, sha256_of_file(source))
        assert taken is not None
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(taken, b"a blob does not change")
        os.close(taken)
    finally:
        os.close(reader)
        os.close(file)
        await channels.close()
    await blobs.closes_all_files()


async def _refused(blobs: BlobsProcess, ticket: str, size_bytes: int) -> bool:
    async def requests():
        start = wire.UploadStart(upload_id="1" * 64, size_bytes=size_bytes, ticket=ticket)
        yield wire.UploadBlobRequest(start=start)

    options = [("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(blobs.address, options=options) as channel:
        metadata = (("authorization", f"Bearer {blobs.token}"),)
        try:
            await BlobServiceStub(channel).UploadBlob(requests(), metadata=metadata, timeout=30)
        except grpc.aio.AioRpcError as error:
            known = error_from_trailing_metadata(error.trailing_metadata())
            assert known is not None
            assert known.violations[0].field == "start.ticket"
            return True
    return False
