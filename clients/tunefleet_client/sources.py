"""A file that is sent: its digest is made in a thread while its pieces go out.

The digest runs ahead of the pieces. So a blob that the other side has already is found out before
most of it was sent, and the other side never waits long for the digest at the end. Where the other
side has nothing of this size, there is nothing to find out, and none is made.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path

from tunefleet_client.errors import failure
from tunefleet_core.artifacts import PIECE_BYTES, read_ahead, upload_id_of
from tunefleet_core.errors import Reason

__all__ = ["Source", "open_source"]

_DIGEST_FIRST_BYTES = 8 * PIECE_BYTES
"""A file up to this size is not worth sending in vain: its digest is made first."""
_LEAD_BYTES = 256 * PIECE_BYTES
"""How far pieces may be ahead of a digest that is slower than the network."""


class Source:
    """An open file. Made by `open_source`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self.path = path
        self.descriptor = descriptor
        self.size_bytes = status.st_size
        self._modified_ns = status.st_mtime_ns
        self.upload_id = upload_id_of(path, status)
        self._hashed_bytes = 0
        self._is_over = threading.Event()
        self._digest: asyncio.Future[str] | None = None

    @property
    def known_sha256(self) -> str:
        """The digest, or nothing if it is not made yet. Raises FIELD_INVALID."""
        with _reading(self.path):
            return self._digest.result() if self._digest is not None and self._digest.done() else ""

    def begin_digest(self) -> asyncio.Future[str]:
        """Begin to make the digest, if it was not begun."""
        if self._digest is None:
            self._digest = asyncio.get_running_loop().run_in_executor(None, self._make_digest)
        return self._digest

    async def sha256(self) -> str:
        """Wait for the digest. Raises FIELD_INVALID."""
        with _reading(self.path):
            return await asyncio.shield(self.begin_digest())

    @property
    def is_small(self) -> bool:
        """Whether the digest comes before the first piece, and so names the upload."""
        return self.size_bytes <= _DIGEST_FIRST_BYTES

    async def settle(self) -> None:
        """Wait for the digest of a small file."""
        if self.is_small:
            await self.sha256()

    async def pieces(self, offset: int) -> AsyncGenerator[bytes]:
        """Yield the pieces from an offset to the end; to be closed. Raises FIELD_INVALID."""
        with _reading(self.path):
            async with aclosing(read_ahead(self.descriptor, offset, self.size_bytes)) as pieces:
                async for piece in pieces:
                    yield piece

    async def pace(self, offset: int) -> None:
        """Wait until the digest is near enough to an offset for the pieces there to be sent."""
        digest = self.begin_digest()
        while offset - self._hashed_bytes > _LEAD_BYTES and not digest.done():
            await asyncio.sleep(0.02)

    def require_unchanged(self) -> None:
        """Raise DIGEST_MISMATCH if the file was written to since it was opened."""
        status = os.fstat(self.descriptor)
        if (status.st_size, status.st_mtime_ns) != (self.size_bytes, self._modified_ns):
            raise failure(
                Reason.DIGEST_MISMATCH,
                f"{self.path} changed while it was sent.",
                hint="Send it again once nothing writes to it any more.",
                metadata={"path": str(self.path)},
            )

    async def close(self) -> None:
        """End the digest and close the file."""
        self._is_over.set()
        if self._digest is not None:
            await asyncio.wait((self._digest,))
            if not self._digest.cancelled():
                self._digest.exception()  # it was raised, or nobody asked
        os.close(self.descriptor)

    def _make_digest(self) -> str:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(PIECE_BYTES, self.size_bytes + 1)))
        while not self._is_over.is_set():
            count = os.preadv(self.descriptor, (buffer,), self._hashed_bytes)
            if not count:
                break
            digest.update(buffer[:count])
            self._hashed_bytes += count
        return digest.hexdigest()


@asynccontextmanager
async def open_source(path: Path) -> AsyncGenerator[Source]:
    """Open a file to send.

    Raises:
        TunefleetError: FIELD_INVALID if it cannot be read.
    """
    with _reading(path):
        descriptor = await asyncio.to_thread(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        source = Source(path, descriptor)
    try:
        yield source
    finally:
        await source.close()


@contextmanager
def _reading(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise failure(
            Reason.FIELD_INVALID,
            f"{path} cannot be read: {error.strerror}.",
            hint="Name a file that exists and can be read.",
            metadata={"path": str(path)},
        ) from error
