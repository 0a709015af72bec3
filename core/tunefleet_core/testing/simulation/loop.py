"""Virtual time: a heap of calls, taken in order, with one seeded source of chance."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random

__all__ = ["Loop"]


class Loop:
    """Runs calls at their virtual times; equal times in the order in which they were asked for."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.chance = Random(seed)
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something later."""
        self._count += 1
        heappush(self._calls, (self.now + seconds, self._count, call))

    def step(self) -> bool:
        """Make the next call; False if there is none."""
        if not self._calls:
            return False
        self.now, _, call = heappop(self._calls)
        call()
        return True
