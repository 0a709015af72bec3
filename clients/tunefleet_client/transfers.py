"""Move blobs: files go up and come down in pieces, and go on where they were cut.

The coordinator only tells where blobs are served. A cut (the process was killed, the network
went) is waited out and the transfer goes on from what the other side has; what counts in the end
is the digest of the whole.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from tunefleet.artifact.v1 import blob_service_pb2 as wire
from tunefleet_client.blob_calls import BlobCalls, next_of
from tunefleet_client.calls import Connection
from tunefleet_client.errors import at_path, failure
from tunefleet_client.handover import pass_file, take_file
from tunefleet_client.patience import Patience, broken, stall
from tunefleet_client.sources import Source, open_source
from tunefleet_core.artifacts import (
    GrowingFile,
    WriteBehind,
    check_sha256,
    keep_freed_memory,
    naming_full_disk,
    sync_folder,
)
from tunefleet_core.errors import Reason, TunefleetError

if TYPE_CHECKING:
    from tunefleet_client.blob_calls import UploadCall

__all__ = ["Progress", "Transfers"]

_GIVE_UP_SECONDS = 60.0
"""Without a byte moving for so long, a transfer fails; every byte starts the wait anew."""
_SPOILT_TRIES = 3
_WATCH_EVERY_SECONDS = 0.25
_COPY_BYTES = 64 << 20
"""What is copied of a blob at a time; between, a cancel is heeded."""
_REREAD_BYTES_PER_SECOND = 50e6

Progress = Callable[[int, int], None]
"""Told the bytes that the other side has, and the bytes in all."""


class Transfers:
    """Uploads and downloads of blobs. Every method raises TunefleetError."""

    def __init__(
        self,
        connection: Connection,
        address: Callable[[], Awaitable[str]],
        *,
        give_up_seconds: float = _GIVE_UP_SECONDS,
        may_hand_over: bool = True,
    ) -> None:
        self._coordinator = connection
        self._address = address
        self._give_up_seconds = give_up_seconds
        self._may_hand_over = may_hand_over  # where the blobs process is on this host

    async def upload(self, path: str | Path, *, progress: Progress | None = None) -> str:
        """Send a file and return its SHA-256, hex. A file that is there already is not sent.

        Args:
            path: The file; it must not change meanwhile.
            progress: Told how far it is.

        Raises:
            TunefleetError: FIELD_INVALID if the file cannot be read, DISK_FULL at the other
                side, DIGEST_MISMATCH if the file changed, UNAVAILABLE if nothing moved for long.
        """
        async with open_source(Path(path)) as source:
            await source.settle()
            work = Patience(self._coordinator, self._give_up_seconds)
            spoilt = 0
            while True:
                try:
                    sha256 = await self._send(source, work, progress)
                    source.require_unchanged()
                    return sha256
                except TunefleetError as error:
                    source.require_unchanged()
                    if error.reason is Reason.DIGEST_MISMATCH and spoilt < _SPOILT_TRIES:
                        # What had come before may have been spoilt by a power cut there.
                        spoilt += 1
                        work.start_over()
                        continue
                    await work.wait_or_raise(error)

    async def download(self, sha256: str, target: str | Path, *, progress: Progress | None = None) -> Path:
        """Fetch a blob into a file, written whole or not at all; return its path.

        A partial file from a download that was cut lies beside the target and is gone on with.

        Args:
            sha256: Digest of the blob, hex.
            target: The file; an older one is replaced at the end.
            progress: Told how far it is.

        Raises:
            TunefleetError: BLOB_NOT_FOUND, DIGEST_MISMATCH if the blob is damaged, DISK_FULL
                here, UNAVAILABLE if nothing moved for long.
        """
        goal = Path(target)
        with at_path(goal):
            partial = goal.with_name(f".{goal.name}.{check_sha256(sha256, 'sha256')[:16]}.partial")
        work = Patience(self._coordinator, self._give_up_seconds)
        spoilt = 0
        while True:
            try:
                with naming_full_disk(partial):
                    await self._receive(sha256, partial, goal, work=work, progress=progress)
                return goal
            except OSError as error:
                partial.unlink(missing_ok=True)
                raise _from_disk(error, goal) from error
            except TunefleetError as error:
                if error.reason in (Reason.DIGEST_MISMATCH, Reason.FIELD_INVALID) and spoilt < 1:
                    spoilt += 1  # a partial of an earlier time may be wrong; one from the start is not
                    work.start_over()
                    continue
                await work.wait_or_raise(error)

    async def _send(self, source: Source, work: Patience, progress: Progress | None) -> str:
        calls = await self._open()
        start = wire.UploadStart(sha256=source.known_sha256, size_bytes=source.size_bytes)
        if not source.is_small:
            start.upload_id = source.upload_id
            if self._may_hand_over:
                start.ticket = await pass_file(calls, source.descriptor)
        there = await calls.get(start.sha256, start.upload_id, size_bytes=source.size_bytes)
        work.moved(there.size_bytes)
        sent = ""
        if not there.is_complete:
            start.offset = there.size_bytes if there.size_bytes <= source.size_bytes else 0
            _tell(progress, start.offset, source.size_bytes)
            call = calls.upload()
            try:
                if start.ticket:
                    return await self._watch(calls, call, start, work=work, progress=progress)
                needs_digest = bool(start.offset) or not there.is_size_new
                sent = await self._send_pieces(
                    call, source, start, needs_digest=needs_digest, work=work, progress=progress
                )
            except asyncio.InvalidStateError:  # it ended between the question and the write
                await self._outcome(calls.connection, call)
            except grpc.aio.AioRpcError as error:
                raise broken(calls.connection, error) from error
            finally:
                call.cancel()
        _tell(progress, source.size_bytes, source.size_bytes)
        return sent or await source.sha256()

    async def _watch(
        self,
        calls: BlobCalls,
        call: UploadCall,
        start: wire.UploadStart,
        *,
        work: Patience,
        progress: Progress | None,
    ) -> str:
        """Wait until the other side has copied the file that was passed; return its digest."""
        ended = asyncio.Event()
        call.add_done_callback(lambda _: ended.set())
        limit = self._stall_seconds(start.offset)
        async with stall(limit):
            await call.write(wire.UploadBlobRequest(start=start))
            await call.done_writing()
        while not ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_EVERY_SECONDS):
                    await ended.wait()
                    break
            there = await calls.get("", start.upload_id)
            if there.size_bytes:  # not renamed meanwhile
                work.moved(there.size_bytes)
                _tell(progress, there.size_bytes, start.size_bytes)
            work.require(limit)
        whole = await call
        _tell(progress, whole.size_bytes, start.size_bytes)
        return whole.sha256

    async def _send_pieces(
        self,
        call: UploadCall,
        source: Source,
        start: wire.UploadStart,
        *,
        needs_digest: bool,
        work: Patience,
        progress: Progress | None,
    ) -> str:
        """Send a file from an offset on; return its digest, the other side's where this one makes none."""
        if needs_digest:
            await source.pace(start.offset)
        limit = self._stall_seconds(start.offset)
        async with stall(limit):
            await call.write(wire.UploadBlobRequest(start=start))
            await call.initial_metadata()  # it takes the upload, or has refused it by now
        offset = start.offset
        is_told = bool(start.sha256) or not needs_digest
        async with aclosing(source.pieces(offset)) as pieces:
            async for piece in pieces:
                if not is_told and source.known_sha256:
                    await _tell_digest(call, source.known_sha256, limit)
                    is_told = True
                if call.done():  # it is there by now, or refused
                    break
                async with stall(limit):
                    await call.write(piece)
                offset += len(piece)
                work.moved(offset)
                _tell(progress, offset, source.size_bytes)
                if needs_digest:
                    await source.pace(offset)
        if not is_told and not call.done():
            await _tell_digest(call, await source.sha256(), limit)
        async with stall(limit):
            if not call.done():
                await call.done_writing()
            return (await call).sha256

    async def _outcome(self, connection: Connection, call: UploadCall) -> None:
        try:
            async with stall(self._give_up_seconds):
                await call
        except grpc.aio.AioRpcError as error:
            raise broken(connection, error) from error

    def _stall_seconds(self, offset: int) -> float:
        """Return how long the other side may say nothing: it first reads again what it has."""
        return self._give_up_seconds + offset / _REREAD_BYTES_PER_SECOND

    async def _receive(
        self, sha256: str, partial: Path, goal: Path, *, work: Patience, progress: Progress | None
    ) -> None:
        calls = await self._open()
        file = await asyncio.to_thread(_open_partial, partial)
        try:
            blob = await take_file(calls, sha256) if self._may_hand_over else None
            if blob is None:
                await self._receive_pieces(calls, sha256, file, work=work, progress=progress)
            else:
                await _copy(blob, file, progress)
            await asyncio.to_thread(_keep, file, partial, goal, sha256)
        except TunefleetError as error:
            if error.reason in (Reason.FIELD_INVALID, Reason.BLOB_NOT_FOUND):
                partial.unlink(missing_ok=True)
            raise
        finally:
            await asyncio.to_thread(file.close)

    async def _receive_pieces(
        self,
        calls: BlobCalls,
        sha256: str,
        file: GrowingFile,
        *,
        work: Patience,
        progress: Progress | None,
    ) -> None:
        position = size_bytes = file.size_bytes
        call = calls.download(sha256, position)
        try:
            async with WriteBehind(file.write) as behind:
                while True:
                    async with stall(self._give_up_seconds):
                        response = await next_of(call)
                    if response is None:
                        break
                    if isinstance(response, wire.DownloadBlobResponse):
                        size_bytes = response.size_bytes or size_bytes
                        response = response.chunk
                    await behind.put(response)
                    position += len(response)
                    work.moved(position)
                    _tell(progress, position, size_bytes)
                await behind.drain()
        except grpc.aio.AioRpcError as error:
            raise broken(calls.connection, error) from error
        finally:
            call.cancel()

    async def _open(self) -> BlobCalls:
        address = await self._address()
        if not address:
            raise failure(
                Reason.CAPABILITY_UNSUPPORTED,
                "This fleet serves no blobs.",
                hint="Start the coordinator with --blob-address, as `tunefleet up` does.",
            )
        keep_freed_memory()
        return BlobCalls(self._coordinator.to(address, peer="The blobs process"))


async def _copy(blob: int, file: GrowingFile, progress: Progress | None) -> None:
    """Copy what is missing of a blob that was handed over as an open file, and close that."""
    size_bytes = os.fstat(blob).st_size
    copying: asyncio.Future[int] | None = None
    try:
        while True:
            _tell(progress, file.size_bytes, size_bytes)
            copying = asyncio.get_running_loop().run_in_executor(None, file.write_from, blob, _COPY_BYTES)
            if not await asyncio.shield(copying):
                break
    finally:
        if copying is not None:
            await asyncio.wait((copying,))  # whoever is cancelled closes nothing that a thread still reads
        os.close(blob)


async def _tell_digest(call: UploadCall, sha256: str, limit: float) -> None:
    async with stall(limit):
        await call.write(wire.UploadBlobRequest(sha256=sha256))


def _open_partial(partial: Path) -> GrowingFile:
    partial.parent.mkdir(parents=True, exist_ok=True)
    return GrowingFile(partial, mode=0o644)


def _keep(file: GrowingFile, partial: Path, goal: Path, sha256: str) -> None:
    """Check a whole file and give it its name."""
    found = file.hexdigest()
    if found != sha256:
        partial.unlink(missing_ok=True)
        raise failure(
            Reason.DIGEST_MISMATCH,
            f"What came is not blob {sha256[:12]}; it has {found[:12]}.",
            hint="Fetch it again; if it stays so, the blob is damaged in the store.",
            metadata={"sha256": sha256, "found": found},
        )
    file.sync()
    partial.replace(goal)
    sync_folder(goal.parent)


def _from_disk(error: OSError, goal: Path) -> TunefleetError:
    return failure(
        Reason.DISK_FULL if error.errno in (28, 122) else Reason.FIELD_INVALID,
        f"{goal} cannot be written: {error.strerror}.",
        hint="Free space on this disk, or name another file.",
        metadata={"path": str(goal)},
    )


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
