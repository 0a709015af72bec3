"""The coordinator's two clocks, in one place so that tests can bring their own."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from tunefleet_core.lifecycle import Moment

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Says what time it is."""

    def moment(self) -> Moment:
        """Return the moment by both clocks."""
        ...

    async def sleep(self, seconds: float, wake: asyncio.Event) -> None:
        """Return after some seconds of the monotonic clock, or as soon as the event is set."""
        ...


class SystemClock:
    """The clocks of the operating system."""

    def moment(self) -> Moment:
        """Return the moment by the monotonic and the wall clock."""
        return Moment(now=time.monotonic(), wall=time.time())

    async def sleep(self, seconds: float, wake: asyncio.Event) -> None:
        """Sleep on the event loop, whose clock is the monotonic one."""
        try:
            async with asyncio.timeout(seconds):
                await wake.wait()
        except TimeoutError:
            return
