"""Deadlines of rows, in a heap: finding what is due costs nothing for what is not.

A row has at most one entry. A deadline that moves later (every heartbeat does that)
leaves its entry where it is; the entry is looked at again when it comes up.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from tunefleet_core.lifecycle.rows import Key

__all__ = ["Deadlines"]


class Deadlines:
    """A heap of (deadline, key), one entry per key."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, Key]] = []
        self._armed: dict[Key, float] = {}

    def __len__(self) -> int:
        return len(self._armed)

    def arm(self, key: Key, deadline: float) -> None:
        """Make sure that a key comes up no later than its deadline."""
        armed = self._armed.get(key)
        if armed is None or deadline < armed:
            self._armed[key] = deadline
            heappush(self._heap, (deadline, key))

    def next(self) -> float | None:
        """Return a moment before which nothing is due: the earliest entry, which may have moved later."""
        heap = self._heap
        while heap and self._armed.get(heap[0][1]) != heap[0][0]:
            heappop(heap)  # replaced by an earlier entry, which was taken
        return heap[0][0] if heap else None

    def take_due(self, now: float, deadline_of: Callable[[Key], float | None]) -> list[Key]:
        """Take out the keys whose deadline, as `deadline_of` says it today, has come."""
        due: list[Key] = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            entry, key = heappop(heap)
            if self._armed.get(key) != entry:
                continue  # replaced by an earlier entry
            del self._armed[key]
            deadline = deadline_of(key)
            if deadline is None:
                continue
            if deadline > now:
                self.arm(key, deadline)
            else:
                due.append(key)
        return due
