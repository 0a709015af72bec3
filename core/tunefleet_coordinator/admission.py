"""What new work passes before it is taken: room on the disk, and a hold on what it will need."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager

from tunefleet_coordinator.holds import Holds
from tunefleet_core.artifacts import Watermark

__all__ = ["Admission"]

_LOOK_SECONDS = 0.1


class Admission:
    """Admits jobs and deployments."""

    def __init__(self, watermark: Watermark, holds: Holds) -> None:
        self._watermark = watermark
        self._holds = holds
        self._look_again_at = 0.0
        self._looking = asyncio.Lock()

    async def new_work(self) -> AbstractContextManager[None]:
        """Return what holds all that is resolved inside until it is in the store: `with await ...`.

        Raises:
            TunefleetError: DISK_FULL.
        """
        if self._is_due():  # a disk does not fill between two calls of a burst
            async with self._looking:  # one look is enough for all who wait for one
                if self._is_due():
                    await asyncio.to_thread(self._watermark.require)
                    self._look_again_at = time.monotonic() + _LOOK_SECONDS
        return self._holds.request()

    def _is_due(self) -> bool:
        return time.monotonic() >= self._look_again_at
