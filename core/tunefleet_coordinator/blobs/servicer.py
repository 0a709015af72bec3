"""BlobService: pieces are written, hashed and read in threads, so that the event loop never waits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import TypeAlias

from tunefleet.artifact.v1 import blob_service_pb2 as pb
from tunefleet_coordinator.blobs.handovers import Handovers
from tunefleet_coordinator.security import current_principal
from tunefleet_core.artifacts import (
    PIECE_BYTES,
    BlobSizes,
    BlobStore,
    Piece,
    Upload,
    Uploads,
    Watermark,
    WriteBehind,
    check_sha256,
    read_ahead,
)
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import RpcContext

__all__ = ["MAX_BLOB_BYTES", "BlobServicer"]

MAX_BLOB_BYTES = 1 << 40
_COPY_BYTES = 64 << 20
"""What is copied between two looks at whether the call goes on."""
_SILENCE_SECONDS = 60.0
"""An upload whose sender says nothing for so long is ended; its partial stays."""

_UploadMessage: TypeAlias = pb.UploadBlobRequest | memoryview
"""A piece comes as itself; see `tunefleet_core.artifacts.pieces`."""


class BlobServicer:
    """Answers for blobs; the docs of each method are in the proto. Served by `blob_handlers`."""

    def __init__(
        self,
        store: BlobStore,
        watermark: Watermark,
        handovers: Handovers,
        *,
        max_blob_bytes: int = MAX_BLOB_BYTES,
    ) -> None:
        self._store = store
        self._uploads = Uploads(store)
        self._sizes = BlobSizes(store)
        self._watermark = watermark
        self._handovers = handovers
        self._max_blob_bytes = max_blob_bytes

    async def GetBlob(self, request: pb.GetBlobRequest, context: RpcContext) -> pb.GetBlobResponse:
        key = _check_key(request.sha256, request.upload_id, "")
        if request.sha256:
            whole = await asyncio.to_thread(_size_of, self._store.path_of(request.sha256))
            if whole is not None:
                return pb.GetBlobResponse(is_complete=True, size_bytes=whole)
        there = await asyncio.to_thread(self._uploads.size_of, key, current_principal().name)
        size = request.upload_size_bytes
        is_new = size > 0 and not await asyncio.to_thread(self._sizes.has, size)
        return pb.GetBlobResponse(size_bytes=there, is_size_new=is_new)

    async def UploadBlob(
        self, request_iterator: AsyncIterator[_UploadMessage], context: RpcContext
    ) -> pb.UploadBlobResponse:
        start, key = await self._start(request_iterator)
        sender = current_principal().name
        if start.sha256 and await asyncio.to_thread(self._store.renew, start.sha256):
            await asyncio.to_thread(self._uploads.forget, key, sender)
            return await self._there(start.sha256)
        await asyncio.to_thread(self._watermark.require, start.size_bytes - start.offset)
        upload = await asyncio.to_thread(
            self._uploads.begin, key, sender, size_bytes=start.size_bytes, offset=start.offset
        )
        try:
            await context.send_initial_metadata(())  # the sender may begin: no piece is sent in vain
            if start.ticket:
                descriptor = self._handovers.redeem(start.ticket, sender, start.size_bytes)
                return await self._copy(descriptor, upload, start.sha256)
            return await self._receive(request_iterator, upload, start)
        finally:
            await asyncio.to_thread(upload.close)

    async def DownloadBlob(
        self, request: pb.DownloadBlobRequest, context: RpcContext
    ) -> AsyncGenerator[pb.DownloadBlobResponse | Piece]:
        sha256 = check_sha256(request.sha256, "sha256")
        # The open file stays readable even if the blob is pruned meanwhile.
        descriptor = await asyncio.to_thread(_open, self._store.path_of(sha256), sha256)
        try:
            size_bytes = os.fstat(descriptor).st_size
            if not 0 <= request.offset <= size_bytes:
                raise TunefleetError.field("offset", f"must be from 0 to {size_bytes}, got {request.offset}")
            yield pb.DownloadBlobResponse(size_bytes=size_bytes)
            async with aclosing(read_ahead(descriptor, request.offset, size_bytes)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            os.close(descriptor)

    async def OpenHandover(
        self, request: pb.OpenHandoverRequest, context: RpcContext
    ) -> pb.OpenHandoverResponse:
        descriptor = None
        if request.sha256:
            sha256 = check_sha256(request.sha256, "sha256")
            descriptor = await asyncio.to_thread(_open, self._store.path_of(sha256), sha256)
        path, ticket = self._handovers.give(current_principal().name, descriptor)
        return pb.OpenHandoverResponse(socket=path, ticket=ticket)

    async def _copy(self, descriptor: int, upload: Upload, wanted: str) -> pb.UploadBlobResponse:
        """Make the blob of an open file. Its digest is that of the bytes that were written."""
        try:
            while await asyncio.to_thread(upload.write_from, descriptor, _COPY_BYTES):
                pass
        finally:
            # A thread that was left behind by a cancel still reads: the lock is free when it has ended.
            await asyncio.to_thread(upload.close_behind, descriptor)
        sha256 = wanted or await asyncio.to_thread(upload.hexdigest)
        if await asyncio.to_thread(self._store.renew, sha256):
            await asyncio.to_thread(upload.discard)
            return await self._there(sha256)
        size_bytes = await asyncio.to_thread(upload.finish, sha256)
        return pb.UploadBlobResponse(size_bytes=size_bytes, sha256=sha256)

    async def _start(self, requests: AsyncIterator[_UploadMessage]) -> tuple[pb.UploadStart, str]:
        """Return the first message, checked, and the key of the upload."""
        first = await _next(requests)
        if not isinstance(first, pb.UploadBlobRequest) or first.WhichOneof("content") != "start":
            raise TunefleetError.field("start", "must come in the first message")
        start = first.start
        key = _check_key(start.sha256, start.upload_id, "start.")
        if not 0 <= start.size_bytes <= self._max_blob_bytes:
            raise TunefleetError.field(
                "start.size_bytes", f"must be from 0 to {self._max_blob_bytes}, got {start.size_bytes}"
            )
        if not 0 <= start.offset <= start.size_bytes:
            raise TunefleetError.field("start.offset", f"must be from 0 to {start.size_bytes}")
        return start, key

    async def _receive(
        self, requests: AsyncIterator[_UploadMessage], upload: Upload, start: pb.UploadStart
    ) -> pb.UploadBlobResponse:
        sha256 = start.sha256
        async with WriteBehind(upload.write) as behind:
            while (request := await _next(requests)) is not None:
                if isinstance(request, memoryview):
                    await behind.put(_check_piece(request))
                    continue
                if request.WhichOneof("content") == "chunk":
                    await behind.put(_check_piece(request.chunk))
                    continue
                sha256 = _check_late_digest(request, sha256)
                if await asyncio.to_thread(self._store.renew, sha256):
                    await behind.drain()
                    await asyncio.to_thread(upload.discard)
                    return await self._there(sha256)
            await behind.drain()
        if not sha256 and start.offset:
            raise TunefleetError.field("sha256", "was not told before the end")
        sha256 = sha256 or await asyncio.to_thread(upload.hexdigest)
        size_bytes = await asyncio.to_thread(upload.finish, sha256)
        return pb.UploadBlobResponse(size_bytes=size_bytes, sha256=sha256)

    async def _there(self, sha256: str) -> pb.UploadBlobResponse:
        whole = await asyncio.to_thread(_size_of, self._store.path_of(sha256))
        return pb.UploadBlobResponse(size_bytes=whole or 0, sha256=sha256)


def _check_key(sha256: str, upload_id: str, prefix: str) -> str:
    """Return what an upload is called. Both are hex of the same length, so that neither can be a path."""
    if sha256 or not upload_id:
        check_sha256(sha256, f"{prefix}sha256")
    if upload_id:
        check_sha256(upload_id, f"{prefix}upload_id")
    return upload_id or sha256


def _check_piece(piece: Piece) -> Piece:
    if len(piece) > PIECE_BYTES:
        raise TunefleetError.field("chunk", f"has {len(piece)} bytes; the most are {PIECE_BYTES}")
    return piece


def _check_late_digest(request: pb.UploadBlobRequest, known: str) -> str:
    if request.WhichOneof("content") != "sha256":
        raise TunefleetError.field("start", "must come in the first message only")
    if known:
        raise TunefleetError.field("sha256", "was told already")
    return check_sha256(request.sha256, "sha256")


async def _next(requests: AsyncIterator[_UploadMessage]) -> _UploadMessage | None:
    """Return the next message, None at the end. Raises TIME_LIMIT when the sender says nothing."""
    try:
        async with asyncio.timeout(_SILENCE_SECONDS):
            return await anext(requests, None)
    except TimeoutError:
        raise TunefleetError(
            Reason.TIME_LIMIT,
            f"Nothing of the upload came for {_SILENCE_SECONDS:.0f} s.",
            hint="Send it again; it goes on where it stopped.",
        ) from None


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _open(path: Path, sha256: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise TunefleetError(
            Reason.BLOB_NOT_FOUND,
            f"The store has no blob {sha256[:12]}.",
            hint="Upload it first.",
            metadata={"sha256": sha256},
        ) from None
