"""A file that grows by pieces, with its digest made and its bytes synced on the way.

Reading a whole file once more for its digest, and waiting for the disk only at the end, would
cost a transfer as much time as moving the bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tunefleet_core.artifacts.pieces import Piece

__all__ = ["GrowingFile"]

_READ_BYTES = 1 << 20
_COPY_BYTES = 1 << 20
_SYNC_EVERY_BYTES = 32 << 20
"""So that the sync at the end takes no minute, and a power cut costs little."""
_sync_data: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
"""Not every system has the cheaper one."""


class GrowingFile:
    """An open file that only grows. Every method blocks on the disk: run it in a thread.

    What is there already is read once, for the digest of the whole. Not for two threads at once.

    Args:
        path: The file; made if it is not there. No symbolic link.
        mode: Its permissions, if it is made.
    """

    def __init__(self, path: Path, *, mode: int = 0o600) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(path, flags, mode)
        self._digest = hashlib.sha256()
        self._executor: ThreadPoolExecutor | None = None
        self._copied: tuple[memoryview, memoryview] | None = None
        self._sync: Future[None] | None = None
        self.size_bytes = 0
        try:
            buffer = memoryview(bytearray(_READ_BYTES)) if os.fstat(self._descriptor).st_size else None
            while buffer and (count := os.preadv(self._descriptor, (buffer,), self.size_bytes)):
                self._digest.update(buffer[:count])
                self.size_bytes += count
        except BaseException:
            os.close(self._descriptor)
            raise
        self._synced_bytes = self.size_bytes

    def write(self, pieces: Iterable[Piece]) -> None:
        """Add pieces. Raises OSError, of an earlier piece too, when the disk fails or is full."""
        for piece in pieces:
            self._write_all(memoryview(piece))
            self._digest.update(piece)

    def write_from(self, descriptor: int, most_bytes: int) -> int:
        """Add what an open file has behind the size that is there; the digest is made in a thread meanwhile.

        Args:
            descriptor: The file; what it has at some offset belongs at the same offset here.
            most_bytes: How much to add at most.

        Returns:
            The bytes that were added; 0 at the end of the file.

        Raises:
            OSError: the disk fails or is full. The digest is wrong from then on.
        """
        hashing: Future[None] | None = None
        end = self.size_bytes + most_bytes
        for turn in itertools.cycle((0, 1)):  # one buffer is hashed while the other is filled and written
            buffer = self._buffers()[turn][: end - self.size_bytes]
            count = os.preadv(descriptor, (buffer,), self.size_bytes) if buffer else 0
            if not count:
                break
            view = buffer[:count]
            self._write_all(view)
            if hashing is not None:
                hashing.result()
            hashing = self._threads().submit(self._digest.update, view)
        if hashing is not None:
            hashing.result()
        return most_bytes - (end - self.size_bytes)

    def hexdigest(self) -> str:
        """Return the SHA-256 of all that is there."""
        return self._digest.hexdigest()

    def sync(self) -> None:
        """Have everything on the disk. Raises OSError."""
        if self._sync is not None:
            self._sync.result()
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close it; twice is once."""
        if self._descriptor < 0:
            return
        if self._executor is not None:
            self._executor.shutdown()
        os.close(self._descriptor)
        self._descriptor = -1

    def _write_all(self, view: memoryview) -> None:
        self.size_bytes += len(view)
        while view:
            view = view[os.write(self._descriptor, view) :]
        if self.size_bytes - self._synced_bytes >= _SYNC_EVERY_BYTES:
            self._sync_behind()

    def _sync_behind(self) -> None:
        """Sync what is there in a thread, while more is written."""
        if self._sync is not None:
            if not self._sync.done():
                return
            self._sync.result()
        self._synced_bytes = self.size_bytes
        self._sync = self._threads().submit(_sync_data, self._descriptor)

    def _threads(self) -> ThreadPoolExecutor:
        """Return two threads: one to sync, one for the digest."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="growing-file")
        return self._executor

    def _buffers(self) -> tuple[memoryview, memoryview]:
        if self._copied is None:
            self._copied = (memoryview(bytearray(_COPY_BYTES)), memoryview(bytearray(_COPY_BYTES)))
        return self._copied
