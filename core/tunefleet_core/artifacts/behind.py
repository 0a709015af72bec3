"""Write in a thread what a stream brings, while the stream goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from tunefleet_core.artifacts.pieces import Piece

__all__ = ["WriteBehind"]

_MOST_PIECES = 4
"""Pieces that wait while others are written: what one transfer may hold in memory, twice."""


class WriteBehind:
    """Hands pieces to a blocking function, in their order, one call at a time.

    Leaving the block waits for the call that runs, so that what it writes to can be closed; pieces
    that still wait are dropped unless `drain` was called.

    Args:
        write: Runs in a thread. What it raises is raised by the next `put` or `drain`.
    """

    def __init__(self, write: Callable[[Sequence[Piece]], None]) -> None:
        self._write = write
        self._waiting: list[Piece] = []
        self._running: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running = self._running
        if running is not None:
            await asyncio.wait((running,))
            if not running.cancelled():
                running.exception()  # it was raised, or something else was before it

    async def put(self, piece: Piece) -> None:
        """Take a piece; waits only if too many wait already."""
        self._waiting.append(piece)
        if self._running is None or self._running.done() or len(self._waiting) >= _MOST_PIECES:
            await self._hand_over()

    async def drain(self) -> None:
        """Wait until everything is written."""
        while self._waiting:
            await self._hand_over()
        await self._settle()

    async def _hand_over(self) -> None:
        await self._settle()
        pieces, self._waiting = self._waiting, []
        self._running = asyncio.get_running_loop().run_in_executor(None, self._write, pieces)

    async def _settle(self) -> None:
        running = self._running
        if running is not None:
            await asyncio.shield(running)  # a cancelled caller leaves the thread's end to __aexit__
            self._running = None
