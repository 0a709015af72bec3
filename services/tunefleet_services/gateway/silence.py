"""How long an engine may say nothing in the middle of an answer."""

from __future__ import annotations

import asyncio

import aiohttp

__all__ = ["PatientReader"]


class PatientReader:
    """Reads a body, and bounds each wait for its next bytes.

    A stream waits for every one of its pieces. These waits share one timer, which looks when the present
    one began: a timer for each would be a tenth of what a piece costs the gateway.

    Args:
        content: The body.
        seconds: Longest wait.
    """

    __slots__ = ("_began", "_content", "_loop", "_seconds", "_timer")

    def __init__(self, content: aiohttp.StreamReader, seconds: float) -> None:
        self._content = content
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._began: float | None = None
        self._timer = self._loop.call_later(seconds, self._look)

    async def read(self) -> bytes:
        """Return the next bytes; empty at the end.

        Raises:
            TimeoutError: None came in time.
        """
        self._began = self._loop.time()
        data = await self._content.readany()
        self._began = None  # what a client takes its time over is no silence of the engine
        return data

    def close(self) -> None:
        """Watch no longer."""
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        left = self._seconds if self._began is None else self._began + self._seconds - now
        if left > 0:
            self._timer = self._loop.call_at(now + left, self._look)
        else:
            self._content.set_exception(aiohttp.SocketTimeoutError("no bytes came in time"))
