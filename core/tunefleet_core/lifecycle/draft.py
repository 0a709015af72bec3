"""A decision in the making: an overlay over the world that it never writes to.

Rules read rows through the draft, so that a rule sees what earlier rules of the same
decision did, and write rows and events into it. `changes` is then the whole decision.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar, cast

from google.protobuf.timestamp_pb2 import Timestamp

from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.fleet.v1.fleet_pb2 import ServiceKind, ServiceState
from tunefleet.job.v1.event_pb2 import JobEvent, StateChanged
from tunefleet.job.v1.job_service_pb2 import JobEvents
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.lifecycle.asked import Moment
from tunefleet_core.lifecycle.changes import Change, EventsAppended, EventsDropped, RowChange, RowRemoved
from tunefleet_core.lifecycle.ledger import DeviceKey, bookings
from tunefleet_core.lifecycle.policy import Policy
from tunefleet_core.lifecycle.rows import (
    AttemptRow,
    DeploymentRow,
    JobRow,
    Key,
    ReplicaRow,
    Row,
    ServiceRow,
    TrafficRow,
)
from tunefleet_core.lifecycle.world import World

__all__ = ["Draft"]

_Versioned = TypeVar("_Versioned", JobRow, AttemptRow, ServiceRow, DeploymentRow, ReplicaRow, TrafficRow)
_Kind = TypeVar("_Kind", JobRow, ServiceRow, DeploymentRow, ReplicaRow, TrafficRow)

_OF_ONE_STATE: dict[str, Any] = {
    "not_before": None,
    "avoid": "",
    "next_try_time": None,
    "resume_requested": False,
}
"""Fields of a job that mean something in one state only, and what they are in every other."""


class Draft:
    """Rows and events of one decision over a world.

    Attributes:
        world: What the decision is made on; read only.
        at: When it is made.
        freed_hosts: Hosts on which a device was freed or a service became able to work, in order.
        queued_jobs: Jobs that began to wait in this decision.
            The scheduler looks at these two alone.
        told_states: States of versions and replicas that events of this decision tell of already, by key.
    """

    def __init__(self, world: World, at: Moment, policy: Policy) -> None:
        self.world = world
        self.at = at
        self.policy = policy
        self.freed_hosts: dict[str, None] = {}
        self.queued_jobs: dict[str, None] = {}
        self.told_states: dict[Key, DeploymentState.ValueType] = {}
        self._rows: dict[Key, Row] = {}
        self._removed: dict[Key, RowRemoved] = {}
        self._events: dict[str, JobEvents] = {}
        self._dropped: dict[str, int] = {}
        self._released: dict[DeviceKey, set[Key]] = {}
        self._booked: dict[DeviceKey, set[Key]] = {}
        self._queue_number = world.next_queue_number

    # --- reading -----------------------------------------------------------------------

    def row(self, key: Key) -> Row | None:
        if key in self._removed:
            return None
        found = self._rows.get(key)
        return self.world.row(key) if found is None else found

    def job(self, uid: str) -> JobRow | None:
        return cast("JobRow | None", self.row(("job", uid, 0)))

    def attempt(self, job_uid: str, attempt: int) -> AttemptRow | None:
        return cast("AttemptRow | None", self.row(("attempt", job_uid, attempt)))

    def service(self, name: str) -> ServiceRow | None:
        return cast("ServiceRow | None", self.row(("service", name, 0)))

    def deployment(self, uid: str) -> DeploymentRow | None:
        return cast("DeploymentRow | None", self.row(("deployment", uid, 0)))

    def traffic(self, deployment_uid: str) -> TrafficRow | None:
        return cast("TrafficRow | None", self.row(("traffic", deployment_uid, 0)))

    def versions_of(self, name: str) -> list[DeploymentRow]:
        """Return the versions of a deployment, those that this decision made or deleted included."""
        uids = {row.uid: None for row in self.world.versions_of(name)}
        uids.update({row.uid: None for row in self.changed(DeploymentRow) if row.name == name})
        found = [self.deployment(uid) for uid in uids]
        return [row for row in found if row is not None]

    def changed(self, kind: type[_Kind]) -> list[_Kind]:
        """Return the rows of a kind that this decision wrote, as they are now."""
        return [row for row in self._rows.values() if isinstance(row, kind)]

    def services_of_host(self, host_id: str) -> list[ServiceRow]:
        """Return the services of a host, those that this decision put there included."""
        names = dict.fromkeys(self.world.capacity.services_of_host(host_id))
        names.update({row.name: None for row in self._rows.values() if isinstance(row, ServiceRow)})
        found = [self.service(name) for name in names]
        return [row for row in found if row is not None and row.host_id == host_id]

    def replica(self, uid: str) -> ReplicaRow | None:
        return cast("ReplicaRow | None", self.row(("replica", uid, 0)))

    def replicas_of(self, version_uid: str) -> list[ReplicaRow]:
        """Return the replicas of a version, by number, those that this decision made or deleted included."""
        uids = {row.uid: None for row in self.world.replicas_of(version_uid)}
        uids.update({row.uid: None for row in self.changed(ReplicaRow) if row.version_uid == version_uid})
        found = [self.replica(uid) for uid in uids]
        return sorted((row for row in found if row is not None), key=lambda row: row.number)

    def replicas_of_service(self, name: str) -> list[ReplicaRow]:
        """Return the replicas given to a service, those that this decision gave it included."""
        uids = {row.uid: None for row in self.world.replicas_of_service(name)}
        uids.update({row.uid: None for row in self.changed(ReplicaRow)})
        found = [self.replica(uid) for uid in uids]
        return [row for row in found if row is not None and row.service == name]

    def servers(self) -> list[ServiceRow]:
        """Return the server services, by name, those that attach in this decision included."""
        names = dict.fromkeys(self.world.servers())
        names.update({row.name: None for row in self._rows.values() if isinstance(row, ServiceRow)})
        found = [self.service(name) for name in sorted(names)]
        return [row for row in found if row is not None and row.kind == ServiceKind.SERVICE_KIND_SERVER]

    def is_free(self, device: DeviceKey) -> bool:
        """Return whether a device is free after what this decision has done so far."""
        if self._booked.get(device):
            return False
        return not set(self.world.ledger.holders(device)).difference(self._released.get(device, ()))

    # --- writing -----------------------------------------------------------------------

    def insert(self, row: Row) -> None:
        """Add a new row."""
        self._put(row)

    def remove(self, row: JobRow | ServiceRow) -> None:
        """Forget a row, as it is in the world, and what belongs to it."""
        self._removed[row.key] = RowRemoved(old=row)

    def write(self, row: _Versioned, **fields: Any) -> _Versioned:
        """Change durable fields of a row: its version grows. Returns the row as it is now."""
        if isinstance(row, JobRow | DeploymentRow):
            fields["update_time"] = self.at.wall
        new = replace(row, version=row.version + 1, **fields)
        self._put(new)
        return new

    def touch(self, row: _Versioned, **fields: Any) -> _Versioned:
        """Change volatile fields of a row: the store never hears of it."""
        if not row.VOLATILE.issuperset(fields):
            raise ValueError(f"{sorted(fields)} of {type(row).__name__} are durable.")
        new = replace(row, **fields)
        self._put(new)
        return new

    def move(
        self, job: JobRow, state: JobState.ValueType, reason: str, *events: JobEvent, **fields: Any
    ) -> JobRow:
        """Change a job's state, with the event that says so, and others behind it."""
        for name, nothing in _OF_ONE_STATE.items():
            fields.setdefault(name, nothing)
        changed = StateChanged(to=state, reason=reason)
        setattr(changed, "from", job.state)  # `from` is a word of Python
        return self.append(job, JobEvent(state_changed=changed), *events, state=state, **fields)

    def append(self, job: JobRow, *events: JobEvent, **fields: Any) -> JobRow:
        """Append copies of events to a job's history, and change durable fields of it.

        The events are numbered and, if need be, dated here.
        """
        sequence, size = self.record(job.uid, job.last_sequence, *events)
        return self.write(job, last_sequence=sequence, history_bytes=job.history_bytes + size, **fields)

    def record(self, job_uid: str, after: int, *events: JobEvent) -> tuple[int, int]:
        """Append copies of events to a history that ends at a sequence; return its new end, and their bytes.

        For a job that is yet to be inserted: its row says how its history stands.
        """
        held = self._events.setdefault(job_uid, JobEvents())
        sequence, before = after, held.ByteSize()
        now = Timestamp()
        now.FromMicroseconds(int(self.at.wall * 1e6))
        for event in events:
            sequence += 1
            own = held.events.add()
            own.CopyFrom(event)
            own.sequence = sequence
            if not own.HasField("create_time"):
                own.create_time.CopyFrom(now)
        # What they take in a segment: it is stored as these very bytes.
        return sequence, held.ByteSize() - before

    def drop_events(self, job: JobRow, through_sequence: int) -> None:
        """Give up the segments of a job's history that end at or before a sequence."""
        self._dropped[job.uid] = through_sequence

    def take_queue_number(self) -> int:
        """Return the next turn in the queue."""
        number = self._queue_number
        self._queue_number += 1
        return number

    # --- the result --------------------------------------------------------------------

    def changes(self) -> tuple[Change, ...]:
        """Return everything this decision does."""
        changes: list[Change] = [*self._removed.values()]
        for key, row in self._rows.items():
            old = self.world.row(key)
            if old is not row and key not in self._removed:
                changes.append(RowChange(old=old, new=row))
        for uid, held in self._events.items():
            changes.append(
                EventsAppended(
                    job_uid=uid,
                    first_sequence=held.events[0].sequence,
                    last_sequence=held.events[-1].sequence,
                    payload=held.SerializeToString(),
                )
            )
        for uid, through in self._dropped.items():
            changes.append(EventsDropped(job_uid=uid, through_sequence=through))
        return tuple(changes)

    def _put(self, row: Row) -> None:
        old = self.row(row.key)
        self._rows[row.key] = row
        self._rebook(old, row)
        if isinstance(row, ServiceRow) and row.state == ServiceState.SERVICE_STATE_ATTACHED:
            before = cast("ServiceRow | None", old)
            if before is None or not before.takes_work or before.backends != row.backends:
                self.freed_hosts[row.host_id] = None
        elif isinstance(row, JobRow) and row.is_queued:
            self.queued_jobs[row.uid] = None

    def _rebook(self, old: Row | None, new: Row) -> None:
        before, after = bookings(old), bookings(new)
        if before == after:
            return
        key = new.key
        for device in before:
            booked = self._booked.get(device, set())
            if key in booked:
                booked.remove(key)
            else:
                self._released.setdefault(device, set()).add(key)
            self.freed_hosts[device[0]] = None
        for device in after:
            released = self._released.get(device, set())
            if key in released:
                released.remove(key)
            else:
                self._booked.setdefault(device, set()).add(key)
