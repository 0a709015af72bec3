"""What a decision wants done: row changes and appended events, as values.

The world applies them in memory, the store makes them durable in one transaction, and
both can tell from a change alone what it needs and touches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from tunefleet_core.errors import TunefleetError
from tunefleet_core.lifecycle.inputs import Response
from tunefleet_core.lifecycle.rows import AttemptRow, DeploymentRow, JobRow, Key, ReplicaRow, Row, ServiceRow

__all__ = [
    "Change",
    "Decision",
    "EventsAppended",
    "EventsDropped",
    "RowChange",
    "RowRemoved",
    "footprint",
    "is_durable",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowChange:
    """A row before and after. `old` None: inserted.

    At most one RowChange per row and decision, whose versions may differ by more than one.
    """

    old: Row | None
    new: Row

    @property
    def key(self) -> Key:
        return self.new.key


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRemoved:
    """A row is forgotten. With a job go its spec, attempts, events, and the manifests that made no model."""

    old: JobRow | ServiceRow

    @property
    def key(self) -> Key:
        return self.old.key


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsAppended:
    """Events of a job, numbered without holes. At most one per job and decision."""

    job_uid: str
    first_sequence: int
    last_sequence: int
    payload: bytes
    """`tunefleet.job.v1.JobEvents`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsDropped:
    """The oldest segments of a job's history, up to a sequence, are given up."""

    job_uid: str
    through_sequence: int


Change: TypeAlias = RowChange | RowRemoved | EventsAppended | EventsDropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do and what to answer. Exactly one of `response` and `error` is set.

    A refusal normally has no changes; nothing of it is applied anyway.
    """

    changes: tuple[Change, ...] = ()
    response: Response | None = None
    error: TunefleetError | None = None


def is_durable(change: Change) -> bool:
    """Return whether the store has to write a change (else it only concerns the memory)."""
    if not isinstance(change, RowChange):
        return True
    return change.old is None or change.old.version != change.new.version


def footprint(changes: Iterable[Change]) -> frozenset[Key]:
    """Return what a decision depends on and alters: rows, names and devices.

    Two decisions of one batch whose footprints meet are not independent: if the earlier
    one cannot be committed, the later one was decided on a state that never was.
    """
    keys: set[Key] = set()
    for change in changes:
        if isinstance(change, EventsAppended | EventsDropped):
            keys.add(("job", change.job_uid, 0))
            continue
        keys.add(change.key)
        for row in (change.old, change.new) if isinstance(change, RowChange) else (change.old,):
            if isinstance(row, AttemptRow | ReplicaRow):
                keys.update(("device", row.host_id, device) for device in row.device_ids)
                keys.add(("service", row.service, 0))
            if isinstance(row, JobRow | DeploymentRow):
                keys.add(("name", row.name, 0))
            if isinstance(row, ReplicaRow):
                keys.add(("deployment", row.version_uid, 0))
    return frozenset(keys)
