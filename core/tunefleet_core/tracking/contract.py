"""What the author of a tracker writes, and what a tracker is told of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from tunefleet.backend.v1.tracker_pb2 import TrackedRun
from tunefleet.job.v1.event_pb2 import AttemptOutcome, Metrics
from tunefleet.job.v1.spec_pb2 import Tracker as TrackerSpec

__all__ = ["Tracker", "numbers_of", "project_of"]

_PROJECT = "tunefleet"
_NOT_NUMBERS = frozenset({"step", "total_steps", "extra"})


class Tracker(Protocol):
    """Keeps the numbers of one run; lives in a process of its own, in its plugin's environment.

    The manifest names a function that makes one from its name in `tracking`, as `tracker_entry`.
    Whatever it raises ends the tracking, never the run.
    """

    def begin(self, run: TrackedRun, key: str) -> str:
        """Begin a run, and return one sentence that says where a person finds it.

        Args:
            run: Its name, its spec, and what the job asks for.
            key: The secret that the job names; empty: it names none.
        """
        ...

    def keep(self, step: int, numbers: Mapping[str, float]) -> None:
        """Keep the numbers of a step. After a rollback steps come a second time."""
        ...

    def end(self, outcome: AttemptOutcome.ValueType) -> None:
        """The run has ended; return when everything is kept."""
        ...


def project_of(tracker: TrackerSpec) -> str:
    """Return the project that a run belongs to."""
    return tracker.project or _PROJECT


def numbers_of(metrics: Metrics) -> dict[str, float]:
    """Return what was reported of a step, each number by its name; what is no number is left out."""
    fields = ((field.name, value) for field, value in metrics.ListFields() if field.name not in _NOT_NUMBERS)
    told = ((name, float(value)) for name, value in (*fields, *metrics.extra.items()))
    return {name: value for name, value in told if math.isfinite(value)}
