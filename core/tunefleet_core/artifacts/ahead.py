"""Read a file in a thread while what was read before is sent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator

from tunefleet_core.artifacts.pieces import PIECE_BYTES

__all__ = ["read_ahead"]

_PIECES_PER_READ = 4
"""A hop to a thread costs as much as a third of a piece. One transfer holds twice as many."""


async def read_ahead(descriptor: int, begin: int, end: int) -> AsyncGenerator[bytes]:
    """Yield the pieces of an open file from one offset to another, fewer if it is shorter by now.

    Close it (`aclosing`) before the descriptor: it waits for the thread. Raises OSError.
    """
    loop = asyncio.get_running_loop()
    running = loop.run_in_executor(None, _read, descriptor, begin, end)
    try:
        while pieces := await asyncio.shield(running):
            begin += sum(map(len, pieces))
            running = loop.run_in_executor(None, _read, descriptor, begin, end)
            for piece in pieces:
                yield piece
    finally:
        await asyncio.wait((running,))
        if not running.cancelled():
            running.exception()  # it was raised, or nobody waits for it


def _read(descriptor: int, begin: int, end: int) -> list[bytes]:
    pieces: list[bytes] = []
    while begin < end and len(pieces) < _PIECES_PER_READ:
        piece = os.pread(descriptor, min(PIECE_BYTES, end - begin), begin)
        if not piece:
            break
        pieces.append(piece)
        begin += len(piece)
    return pieces
