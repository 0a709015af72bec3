"""A store of dictionaries: exactly what survives a crash of the simulated coordinator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields, replace
from functools import cache
from typing import Any

from tunefleet.fleet.v1.fleet_pb2 import ServiceState
from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet.job.v1.job_service_pb2 import JobEvents
from tunefleet_core.lifecycle import (
    AttemptRow,
    Change,
    DeploymentRow,
    EventsAppended,
    EventsDropped,
    JobRow,
    Key,
    ManifestRow,
    ModelRow,
    ReplicaRow,
    Row,
    RowRemoved,
    ServiceRow,
    TrafficRow,
    is_durable,
)

__all__ = ["DurableRows", "durable_part"]


class DurableRows:
    """Rows without their volatile fields, and every event of every job."""

    def __init__(self) -> None:
        self.rows: dict[Key, Row] = {}
        self.events: dict[str, list[JobEvent]] = {}
        self._names: dict[str, Key] = {}

    def commit(self, changes: Sequence[Change]) -> None:
        """Write a decision, comparing versions as the real store does."""
        for change in changes:
            if isinstance(change, EventsAppended):
                events = JobEvents.FromString(change.payload).events
                self.events.setdefault(change.job_uid, []).extend(events)
            elif isinstance(change, EventsDropped):
                kept = self.events[change.job_uid]
                kept[:] = [event for event in kept if event.sequence > change.through_sequence]
            elif isinstance(change, RowRemoved):
                self._remove(change.old)
            elif is_durable(change):
                stored = self.rows.get(change.key)
                expected = None if change.old is None else change.old.version
                if (None if stored is None else stored.version) != expected:
                    raise RuntimeError(f"Compare-and-set failed for {change.key}.")
                self.rows[change.key] = durable_part(change.new)
                if isinstance(change.new, JobRow | ModelRow):
                    self._names[change.new.name] = change.key

    def _remove(self, row: JobRow | ServiceRow) -> None:
        """Remove a row as the real store does: of a job, everything but what its model is made of."""
        if self.rows.pop(row.key).version != row.version:
            raise RuntimeError(f"Compare-and-set failed for {row.key}.")
        if isinstance(row, JobRow):
            del self._names[row.name]
            self.events.pop(row.uid, None)
            for key in [key for key, item in self.rows.items() if self._goes_with(item, row)]:
                del self.rows[key]

    def _goes_with(self, row: Row, job: JobRow) -> bool:
        if isinstance(row, ManifestRow):
            return row.job_uid == job.uid and row.digest != job.output_digest
        return getattr(row, "job_uid", "") == job.uid

    def fetch(self, keys: Iterable[Key]) -> list[Row]:
        """Return the rows of keys; ("name", name, 0) is a job or model."""
        real = [self._names.get(key[1], key) if key[0] == "name" else key for key in keys]
        return [self.rows[key] for key in real if key in self.rows]

    def working_set(self) -> list[Row]:
        """Return what a restarted coordinator loads."""
        return [row for row in self.rows.values() if _can_change(row)]


def durable_part(row: Row) -> Row:
    """Return a row as it is read back after a restart."""
    blank = _blank(type(row))
    return replace(row, **blank) if blank else row


@cache
def _blank(kind: type[Any]) -> dict[str, Any]:
    volatile: frozenset[str] = getattr(kind, "VOLATILE", frozenset())
    blank = {
        item.name: item.default
        for item in fields(kind)
        if item.name in volatile and item.default is not MISSING
    }
    if kind is ServiceRow:
        blank["state"] = ServiceState.SERVICE_STATE_SUSPECT
    return blank


def _can_change(row: Row) -> bool:
    if isinstance(row, JobRow):
        return not row.is_terminal
    if isinstance(row, AttemptRow):
        return row.is_live
    if isinstance(row, DeploymentRow | ReplicaRow):
        return not row.is_deleted
    if isinstance(row, TrafficRow):
        return not row.is_over
    return isinstance(row, ServiceRow)
