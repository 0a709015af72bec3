"""The working set in memory: everything that can still change, and the indexes to find it.

The world is what decisions are made on. It holds non-terminal jobs, live attempts,
services and deployments that are not deleted; terminal rows pass through it until the
store has them (`settle`), and old rows that a decision needs are called back into it
(`missing`, `recall`). It does no I/O and knows no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.fleet.v1.fleet_pb2 import ServiceKind
from tunefleet_core.lifecycle.capacity import CapacityIndex
from tunefleet_core.lifecycle.changes import Change, RowChange, RowRemoved
from tunefleet_core.lifecycle.deadlines import Deadlines
from tunefleet_core.lifecycle.ledger import DeviceKey, DeviceLedger, bookings
from tunefleet_core.lifecycle.queue import JobQueue
from tunefleet_core.lifecycle.replica_index import ReplicaIndex
from tunefleet_core.lifecycle.rows import (
    AttemptRow,
    DeploymentRow,
    JobRow,
    Key,
    ManifestRow,
    ModelRow,
    ReplicaRow,
    RequestKey,
    RequestRow,
    Row,
    ServiceRow,
    TrafficRow,
)

__all__ = ["World"]


class World:
    """Rows by key, with indexes kept by `apply`, `revert`, `settle` and `recall` alone.

    Reading never changes it. Iteration orders are deterministic: they depend on the order
    of changes, never on hash seeds.
    """

    def __init__(self, rows: Iterable[Row] = (), *, next_queue_number: int = 1) -> None:
        self._rows: dict[Key, Row] = {}
        self._names: dict[str, str] = {}
        self._passing: dict[Key, None] = {}
        self._live_attempts: dict[str, AttemptRow] = {}
        self._attempts_of_service: dict[str, dict[str, None]] = {}
        self._replicas = ReplicaIndex()
        self._versions: dict[str, dict[str, None]] = {}
        self._evaluating: dict[str, dict[str, None]] = {}
        self._services: dict[str, None] = {}
        self._gateways: dict[str, None] = {}
        self._servers: dict[str, None] = {}
        self.attached_generation = 0
        """Counts changes of who is attached and how it describes itself; heartbeats are none."""
        self.queue = JobQueue()
        self.ledger = DeviceLedger()
        self.capacity = CapacityIndex()
        self.deadlines = Deadlines()
        self.next_queue_number = next_queue_number
        for row in rows:
            self._replace(None, row)

    # --- reading -----------------------------------------------------------------------

    def row(self, key: Key) -> Row | None:
        """Return the row of a key, if it is in the working set."""
        return self._rows.get(key)

    def job(self, uid: str) -> JobRow | None:
        return cast("JobRow | None", self._rows.get(("job", uid, 0)))

    def job_by_name(self, name: str) -> JobRow | None:
        uid = self._names.get(name)
        return None if uid is None else self.job(uid)

    def attempt(self, job_uid: str, attempt: int) -> AttemptRow | None:
        return cast("AttemptRow | None", self._rows.get(("attempt", job_uid, attempt)))

    def live_attempt(self, job_uid: str) -> AttemptRow | None:
        """Return the one attempt of a job that is not ENDED."""
        return self._live_attempts.get(job_uid)

    def service(self, name: str) -> ServiceRow | None:
        return cast("ServiceRow | None", self._rows.get(("service", name, 0)))

    def deployment(self, uid: str) -> DeploymentRow | None:
        return cast("DeploymentRow | None", self._rows.get(("deployment", uid, 0)))

    def deployment_by_name(self, name: str) -> DeploymentRow | None:
        """Return the version that a deployment's name stands for, unless every version is DELETED."""
        versions = self.versions_of(name)
        return next((row for row in versions if row.is_current), versions[0] if versions else None)

    def versions_of(self, name: str) -> list[DeploymentRow]:
        """Return the versions of a deployment that are not DELETED."""
        return [cast("DeploymentRow", self.deployment(uid)) for uid in self._versions.get(name, {})]

    def traffic(self, deployment_uid: str) -> TrafficRow | None:
        return cast("TrafficRow | None", self._rows.get(("traffic", deployment_uid, 0)))

    def waiting_for_job(self, job_uid: str) -> list[str]:
        """Return the uids of the deployments whose roll-out waits for a job."""
        return list(self._evaluating.get(job_uid, {}))

    def has_model(self, name: str) -> bool:
        """Return whether there is a model of a name (`wanted_keys` says when that is known)."""
        return name in self._names

    def manifest(self, digest: str, job_uid: str) -> ManifestRow | None:
        return cast("ManifestRow | None", self._rows.get(("manifest", digest, job_uid)))

    def request(self, key: RequestKey) -> RequestRow | None:
        return cast("RequestRow | None", self._rows.get(key.key))

    def jobs(self) -> list[JobRow]:
        """Return the jobs of the working set, oldest change first."""
        return [row for row in self._rows.values() if isinstance(row, JobRow)]

    def live_attempts(self) -> list[AttemptRow]:
        return list(self._live_attempts.values())

    def services(self) -> list[ServiceRow]:
        """Return every service ever seen, by name."""
        return [cast("ServiceRow", self.service(name)) for name in sorted(self._services)]

    def gateways(self) -> list[str]:
        """Return the names of the gateways ever seen."""
        return list(self._gateways)

    def servers(self) -> list[str]:
        """Return the names of the server services ever seen, by name."""
        return sorted(self._servers)

    def is_free(self, device: DeviceKey) -> bool:
        """Return whether nothing holds a device."""
        return not self.ledger.holders(device)

    def attempts_of_service(self, name: str) -> list[AttemptRow]:
        """Return the live attempts that a service holds or is to hold."""
        return [self._live_attempts[uid] for uid in self._attempts_of_service.get(name, {})]

    def replica(self, uid: str) -> ReplicaRow | None:
        return cast("ReplicaRow | None", self._rows.get(("replica", uid, 0)))

    def replicas_of(self, version_uid: str) -> list[ReplicaRow]:
        """Return the replicas of a version that are not DELETED, oldest change of place first."""
        return self._replicas_at(self._replicas.of_version(version_uid))

    def replicas_of_service(self, name: str) -> list[ReplicaRow]:
        """Return the replicas given to a server that are not DELETED."""
        return self._replicas_at(self._replicas.of_service(name))

    def replicas_in(self, state: DeploymentState.ValueType) -> list[ReplicaRow]:
        """Return the replicas in a state that is not DELETED."""
        return self._replicas_at(self._replicas.in_state(state))

    def _replicas_at(self, uids: list[str]) -> list[ReplicaRow]:
        return [cast("ReplicaRow", self.replica(uid)) for uid in uids]

    def traffics(self) -> list[TrafficRow]:
        """Return the traffic of every deployment that is not over."""
        return [row for row in self._rows.values() if isinstance(row, TrafficRow) and not row.is_over]

    # --- changing ----------------------------------------------------------------------

    def apply(self, changes: Sequence[Change]) -> None:
        """Make a decision's changes true in memory.

        Raises:
            RuntimeError: A change does not start from the row that is here; nothing is changed then.
        """
        of_rows = [change for change in changes if isinstance(change, RowChange | RowRemoved)]
        for change in of_rows:
            if self._rows.get(change.key) is not change.old:
                raise RuntimeError(f"Row {change.key} is not the one that the decision started from.")
        for change in of_rows:
            self._replace(change.old, change.new if isinstance(change, RowChange) else None)

    def revert(self, changes: Sequence[Change]) -> None:
        """Undo `apply`, which must have been the last thing done to these rows."""
        for change in reversed(changes):
            if isinstance(change, RowChange):
                self._replace(change.new, change.old)
            elif isinstance(change, RowRemoved):
                self._replace(None, change.old)

    def settle(self) -> None:
        """Drop the rows that will never change again. Call it when everything applied is durable."""
        for key in self._passing:
            row = self._rows.get(key)
            if row is None or _is_working(row):
                continue
            del self._rows[key]
            if isinstance(row, JobRow | ModelRow) and self._names.get(row.name) == row.uid:
                del self._names[row.name]
        self._passing.clear()

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Return those keys that the working set cannot answer."""
        return [key for key in keys if not (key[1] in self._names if key[0] == "name" else key in self._rows)]

    def recall(self, rows: Iterable[Row]) -> None:
        """Bring back old rows from the store until the next `settle`."""
        for row in rows:
            if row.key not in self._rows:
                self._replace(None, row)

    def resynchronise(self, key: Key, row: Row | None) -> None:
        """Replace a row by what the store has, after the two were found to differ.

        What the store does not know (leases, sessions) is kept.
        """
        old = self._rows.get(key)
        if isinstance(
            old, JobRow | AttemptRow | ServiceRow | DeploymentRow | ReplicaRow | TrafficRow
        ) and isinstance(row, type(old)):
            row = replace(row, **{name: getattr(old, name) for name in old.VOLATILE})
        if old is not None or row is not None:
            self._replace(old, row)

    def take_due(self, now: float) -> tuple[Key, ...]:
        """Take the keys whose deadline has come, for a Tick; `rearm` them if it cannot be carried out."""
        return tuple(self.deadlines.take_due(now, self._deadline_of_key))

    def rearm(self, keys: Iterable[Key]) -> None:
        """Put deadlines back that were taken for a Tick which failed."""
        for key in keys:
            deadline = self._deadline_of_key(key)
            if deadline is not None:
                self.deadlines.arm(key, deadline)

    # --- indexes -----------------------------------------------------------------------

    def _deadline_of_key(self, key: Key) -> float | None:
        row = self._rows.get(key)
        return None if row is None else _deadline(row)

    def _replace(self, old: Row | None, new: Row | None) -> None:
        key = cast("Row", old if new is None else new).key
        if new is None:
            del self._rows[key]
        else:
            self._rows[key] = new
            if not _is_working(new):
                self._passing[key] = None
        if isinstance(old, JobRow) or isinstance(new, JobRow):
            self._index_job(cast("JobRow | None", old), cast("JobRow | None", new))
        elif isinstance(old, AttemptRow) or isinstance(new, AttemptRow):
            self._index_attempt(cast("AttemptRow | None", old), cast("AttemptRow | None", new))
        elif isinstance(old, ServiceRow) or isinstance(new, ServiceRow):
            self._index_service(cast("ServiceRow | None", old), cast("ServiceRow | None", new))
        elif isinstance(old, DeploymentRow) or isinstance(new, DeploymentRow):
            self._index_deployment(cast("DeploymentRow | None", old), cast("DeploymentRow | None", new))
        elif isinstance(old, ReplicaRow) or isinstance(new, ReplicaRow):
            self._replicas.replace(cast("ReplicaRow | None", old), cast("ReplicaRow | None", new))
            self._rebook(old, new)
        elif isinstance(old, TrafficRow) or isinstance(new, TrafficRow):
            self._index_traffic(cast("TrafficRow | None", old), cast("TrafficRow | None", new))
        elif isinstance(new, ModelRow):
            self._names[new.name] = new.uid
        elif isinstance(old, ModelRow):
            self._names.pop(old.name, None)
        deadline = None if new is None else _deadline(new)
        if deadline is not None:
            self.deadlines.arm(key, deadline)

    def _index_job(self, old: JobRow | None, new: JobRow | None) -> None:
        if new is None:
            self._names.pop(cast("JobRow", old).name, None)
        else:
            self._names[new.name] = new.uid
            self.next_queue_number = max(self.next_queue_number, new.queue_number + 1)
        if old is not None and new is not None and _same_place(old, new):
            return
        if old is not None and old.is_queued:
            self.queue.remove(old)
        if new is not None and new.is_queued:
            self.queue.add(new)

    def _index_attempt(self, old: AttemptRow | None, new: AttemptRow | None) -> None:
        if old is not None and old.is_live:
            del self._live_attempts[old.job_uid]
            if new is None or not new.is_live or new.service != old.service:
                self._attempts_of_service[old.service].pop(old.job_uid)
        if new is not None and new.is_live:
            if new.job_uid in self._live_attempts:
                raise RuntimeError(f"Job {new.job_uid} would have two live attempts.")
            self._live_attempts[new.job_uid] = new
            self._attempts_of_service.setdefault(new.service, {})[new.job_uid] = None
        self._rebook(old, new)

    def _index_service(self, old: ServiceRow | None, new: ServiceRow | None) -> None:
        row = cast("ServiceRow", new or old)
        kinds = self._gateways, self._servers
        if _seen_from_outside(old) != _seen_from_outside(new):
            self.attached_generation += 1
        if new is None:
            self._services.pop(row.name)
            self.capacity.forget(row.name)
            for names in kinds:
                names.pop(row.name, None)
        else:
            self._services[row.name] = None
            if new.kind == ServiceKind.SERVICE_KIND_GATEWAY:
                self._gateways[row.name] = None
            elif new.kind == ServiceKind.SERVICE_KIND_SERVER:
                self._servers[row.name] = None
        if old is None or new is None or old.host_id != new.host_id:
            self.capacity.place(old, new)
        if new is not None and not _same_capacity(old, new):
            self.capacity.refresh(new, self.is_free)

    def _index_deployment(self, old: DeploymentRow | None, new: DeploymentRow | None) -> None:
        if old is not None and not old.is_deleted and (new is None or new.is_deleted):
            self._forget_version(old)
        if new is not None and not new.is_deleted:
            self._versions.setdefault(new.name, {})[new.uid] = None

    def _forget_version(self, row: DeploymentRow) -> None:
        versions = self._versions[row.name]
        versions.pop(row.uid)
        if not versions:
            del self._versions[row.name]

    def _index_traffic(self, old: TrafficRow | None, new: TrafficRow | None) -> None:
        if old is not None and old.is_rolling and old.evaluate_uid:
            waiting = self._evaluating[old.evaluate_uid]
            waiting.pop(old.uid)
            if not waiting:
                del self._evaluating[old.evaluate_uid]
        if new is not None and new.is_rolling and new.evaluate_uid:
            self._evaluating.setdefault(new.evaluate_uid, {})[new.uid] = None

    def _rebook(self, old: Row | None, new: Row | None) -> None:
        before, after = bookings(old), bookings(new)
        if before == after:
            return
        if old is not None:
            self.ledger.release(old.key, before)
        if new is not None:
            self.ledger.book(new.key, after)
        for host_id in {device[0]: None for device in (*before, *after)}:
            for name in self.capacity.services_of_host(host_id):
                self.capacity.refresh(cast("ServiceRow", self.service(name)), self.is_free)


def _is_working(row: Row) -> bool:
    if isinstance(row, JobRow):
        return not row.is_terminal
    if isinstance(row, AttemptRow):
        return row.is_live
    if isinstance(row, DeploymentRow | ReplicaRow):
        return not row.is_deleted
    if isinstance(row, TrafficRow):
        return not row.is_over
    return isinstance(row, ServiceRow)


def _deadline(row: Row) -> float | None:
    if isinstance(row, AttemptRow):
        return row.lease_expires if row.is_live else None
    if isinstance(row, JobRow):
        return row.not_before
    return row.deadline if isinstance(row, ServiceRow | ReplicaRow | TrafficRow) else None


def _same_place(old: JobRow, new: JobRow) -> bool:
    """Whether a job stands where it stood in the queue: what else it needs, and its number, never change."""
    return old.is_queued == new.is_queued and old.avoid == new.avoid and old.priority == new.priority


def _seen_from_outside(row: ServiceRow | None) -> bytes | None:
    return row.description if row is not None and row.is_attached else None


def _same_capacity(old: ServiceRow | None, new: ServiceRow) -> bool:
    return old is not None and (
        old.takes_work == new.takes_work
        and old.kind == new.kind
        and old.host_id == new.host_id
        and old.devices == new.devices
        and old.backends == new.backends
    )
