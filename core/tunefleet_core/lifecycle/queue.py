"""The queue of jobs that wait for a device.

Jobs are grouped by *shape*: what they need of a service. All jobs of one shape fit or do
not fit together, so a search looks at one head per shape, not at every job: 100,000
queued jobs that fit nowhere cost as much as one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from tunefleet_core.lifecycle.rows import JobRow, Labels

__all__ = ["JobQueue", "Shape", "Turn", "shape_of", "turn_of"]

Turn: TypeAlias = tuple[int, int, str]
"""Order of jobs: (-priority, queue number, uid); the smallest is first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a queued job needs of a service."""

    backend: str
    devices_needed: int
    required_labels: Labels
    avoid: str
    """Name of the one service that will not do; empty if any will."""


def shape_of(job: JobRow) -> Shape:
    """Return what a queued job needs."""
    return Shape(
        backend=job.backend,
        devices_needed=job.devices_needed,
        required_labels=job.required_labels,
        avoid=job.avoid,
    )


def turn_of(job: JobRow) -> Turn:
    """Return the place of a job in the order of its shape."""
    return (-job.priority, job.queue_number, job.uid)


class JobQueue:
    """Queued jobs by backend and shape, each shape in the order of turns."""

    def __init__(self) -> None:
        self._by_backend: dict[str, dict[Shape, list[Turn]]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, job: JobRow) -> None:
        """Put a queued job in its place."""
        shapes = self._by_backend.setdefault(job.backend, {})
        insort(shapes.setdefault(shape_of(job), []), turn_of(job))
        self._length += 1

    def remove(self, job: JobRow) -> None:
        """Take a queued job out."""
        shape = shape_of(job)
        shapes = self._by_backend[job.backend]
        turns = shapes[shape]
        turn = turn_of(job)
        index = bisect_left(turns, turn)
        if index == len(turns) or turns[index] != turn:
            raise LookupError(f"Job {job.uid} is not queued as {shape}.")
        del turns[index]
        self._length -= 1
        if not turns:
            del shapes[shape]

    def shapes(self, backend: str) -> Mapping[Shape, list[Turn]]:
        """Return the queued turns of a backend by shape. Not to be changed by the caller."""
        return self._by_backend.get(backend, {})

    def uids(self) -> Iterator[str]:
        """Yield the uid of every queued job, in no particular order."""
        for shapes in self._by_backend.values():
            for turns in shapes.values():
                for turn in turns:
                    yield turn[2]
