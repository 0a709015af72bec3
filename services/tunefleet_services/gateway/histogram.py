"""Times by bucket, and those between the pieces of a stream."""

from __future__ import annotations

import time
from bisect import bisect_left

__all__ = ["TIME_BUCKETS_SECONDS", "Histogram", "Pieces"]

TIME_BUCKETS_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0,
)  # fmt: skip
"""Upper bounds; the last bucket is without bound. A token of a small model comes in a few milliseconds."""

_EVENT_END = b"\n\n"
_STREAM_END = b"data: [DONE]\n\n"


class Histogram:
    """Counts times by bucket, not cumulative."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(TIME_BUCKETS_SECONDS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count a time, or some equal ones."""
        self.counts[bisect_left(TIME_BUCKETS_SECONDS, seconds)] += count
        self.seconds += seconds * count

    def add_all(self, other: Histogram) -> None:
        """Count what another one counted."""
        self.counts = [one + more for one, more in zip(self.counts, other.counts, strict=True)]
        self.seconds += other.seconds


class Pieces:
    """Times the pieces of one stream without reading them: engines send an event for each token.

    Events that come in one go, because tokens were decoded together or the gateway was busy, share
    the time since those before.
    """

    __slots__ = ("_at", "gaps")

    def __init__(self) -> None:
        self.gaps = Histogram()
        self._at = time.perf_counter()

    def note(self, chunk: bytes) -> None:
        """Note bytes that came after the first ones."""
        now = time.perf_counter()
        # A line's end inside an event's JSON is written as \n, so that an empty line ends an event.
        events = chunk.count(_EVENT_END) or 1
        if chunk.endswith(_STREAM_END):
            events -= 1
        if events:
            self.gaps.add((now - self._at) / events, events)
        self._at = now
