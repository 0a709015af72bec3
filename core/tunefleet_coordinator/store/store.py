"""The store: everything durable, behind one narrow class.

Synchronous. `commit` and `forget_requests` are called in one writer thread, everything
else on a second connection in another; each side is safe under a lock of its own, so a
mistake about threads costs time, never data.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, delete, select
from sqlalchemy.exc import DBAPIError

from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_coordinator.store import codec, read, tables
from tunefleet_coordinator.store.conflict import Conflict
from tunefleet_coordinator.store.engine import open_reader, open_writer, path_of
from tunefleet_coordinator.store.pages import Page
from tunefleet_coordinator.store.schema import HEAD_REVISION, migrate
from tunefleet_coordinator.store.state_version import refuse_newer
from tunefleet_coordinator.store.write import write_each, write_together
from tunefleet_core.errors import Reason, TunefleetError, from_exception
from tunefleet_core.lifecycle import (
    AttemptRow,
    Change,
    DeploymentRow,
    JobRow,
    Key,
    Labels,
    ManifestRow,
    ModelRow,
    ReplicaRow,
    RequestKey,
    RequestRow,
    Row,
    SpecRow,
    TrafficRow,
    is_durable,
)

__all__ = ["Durable", "Store"]

_log = logging.getLogger(__name__)
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Durable:
    """What a coordinator starts from: `World(rows, next_queue_number=...)`, then a `Booted` input."""

    rows: tuple[Row, ...]
    next_queue_number: int


class Store:
    """Rows and events of a coordinator in one SQLite file. Made by `Store.open`."""

    def __init__(self, path: Path, writer: Engine, reader: Engine) -> None:
        self.path = path
        self._writer = writer
        self._reader = reader
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()

    @classmethod
    def open(cls, location: str | Path) -> Store:
        """Open a store, making or upgrading its tables.

        Args:
            location: A path, or `sqlite:///PATH`.

        Raises:
            TunefleetError: STATE_TOO_NEW if a newer version wrote it; DISK_FULL;
                FIELD_INVALID if it is another kind of database, or none.
        """
        path = path_of(location)
        refuse_newer(path, HEAD_REVISION)
        writer = open_writer(path)
        try:
            migrate(writer, path)
        except DBAPIError as error:
            writer.dispose()
            raise _classed(error, path) from error
        except BaseException:
            writer.dispose()
            raise
        return cls(path, writer, open_reader(path))

    def close(self) -> None:
        """Close both connections; the write-ahead log is folded into the file."""
        with self._read_lock:
            self._reader.dispose()
        with self._write_lock:
            self._writer.dispose()

    # --- writing -----------------------------------------------------------------------

    def commit(self, batch: Sequence[Sequence[Change]]) -> list[TunefleetError | None]:
        """Commit operations in one durable transaction; each is committed whole or not at all.

        Returns:
            Per operation None, or why it was not committed: Conflict, Dependent, or for all of
            them DISK_FULL or INTERNAL when the transaction itself failed.
        """
        durable = [[change for change in operation if is_durable(change)] for operation in batch]
        with self._write_lock:
            try:
                with self._writer.begin() as connection:
                    write_together(connection, durable)
                return [None] * len(batch)
            except Conflict as conflict:
                _log.warning("A batch of %d operations is written one by one: %s", len(batch), conflict)
            except DBAPIError as error:
                return [_classed(error, self.path)] * len(batch)
            try:
                with self._writer.begin() as connection:
                    return write_each(connection, durable)
            except DBAPIError as error:
                return [_classed(error, self.path)] * len(batch)

    def forget_requests(self, before: float, limit: int = 1000) -> int:
        """Forget answered requests made before a wall-clock time; return how many were forgotten.

        At most `limit` at once, so that the writer is not held up: call again while it is reached.
        """
        requests = tables.requests
        old = select(requests.c.request_id).where(requests.c.create_time < before).limit(limit)
        with self._write_lock, self._writer.begin() as connection:
            found = [row[0] for row in connection.execute(old)]
            where = (requests.c.request_id.in_(found), requests.c.create_time < before)
            return connection.execute(delete(requests).where(*where)).rowcount if found else 0

    # --- reading -----------------------------------------------------------------------

    def load(self) -> Durable:
        """Return the rows that can still change."""

        def loaded(connection: Connection) -> Durable:
            return Durable(
                rows=tuple(read.working_set(connection)),
                next_queue_number=read.next_queue_number(connection),
            )

        return self._read(loaded)

    def fetch(self, keys: Sequence[Key]) -> list[Row]:
        """Return the rows of keys (see `wanted_keys`); missing ones are left out."""
        return self._read(read.rows_of_keys, keys)

    def get_job(self, name: str) -> JobRow | None:
        """Return a job by `projects/{project}/jobs/{job}`."""
        return self._read(read.one, tables.jobs, codec.job_from, name=name)

    def get_job_by_uid(self, uid: str) -> JobRow | None:
        """Return a job by uid."""
        return self._read(read.one, tables.jobs, codec.job_from, uid=uid)

    def get_spec(self, job_uid: str) -> SpecRow | None:
        """Return what a job was asked and what it runs."""
        return self._read(read.one, tables.specs, codec.spec_from, job_uid=job_uid)

    def get_specs(self, job_uids: Sequence[str]) -> dict[str, SpecRow]:
        """Return the specs of jobs by job uid."""
        return {row.job_uid: row for row in self._read(read.specs_of_jobs, job_uids)}

    def list_jobs(
        self,
        project: str,
        *,
        states: Sequence[JobState.ValueType] = (),
        labels: Labels = (),
        page_size: int = 0,
        page_token: str = "",
    ) -> Page[JobRow]:
        """Return a page of a project's jobs, newest first, in one of some states and with all of some labels.

        No states or labels: whatever they are.

        Raises:
            TunefleetError: FIELD_INVALID for a negative size or a foreign token. So do all lists.
        """
        return self._read(
            read.list_jobs,
            project,
            states=states,
            labels=labels,
            page_size=page_size,
            page_token=page_token,
        )

    def list_attempts(self, job_uid: str) -> list[AttemptRow]:
        """Return every attempt of a job, oldest first."""
        return self._read(read.attempts_of_job, job_uid)

    def read_events(self, job_uid: str, after: int, limit: int = 1000) -> list[JobEvent]:
        """Return at most `limit` events of a job with a sequence above `after`, in order."""
        return self._read(read.events_after, job_uid, after=after, limit=limit)

    def beyond_bounds(self, job_uid: str, *, events: int, size: int) -> tuple[int, int] | None:
        """Return (last sequence, bytes) of what to give up of a history, None if it fits its bounds."""
        return self._read(read.beyond_bounds, job_uid, events=events, size=size)

    def get_manifest(self, digest: str) -> ManifestRow | None:
        """Return a committed manifest."""
        return self._read(read.manifest_by_digest, digest)

    def list_checkpoints(
        self, job_uid: str, *, page_size: int = 0, page_token: str = ""
    ) -> Page[ManifestRow]:
        """Return a page of a job's committed checkpoints, newest step first."""
        return self._read(read.list_checkpoints, job_uid, page_size=page_size, page_token=page_token)

    def get_model(self, name: str) -> ModelRow | None:
        """Return a model by `projects/{project}/models/{model}`."""
        return self._read(read.one, tables.models, codec.model_from, name=name)

    def list_models(self, project: str, *, page_size: int = 0, page_token: str = "") -> Page[ModelRow]:
        """Return a page of a project's models, newest first."""
        return self._read(read.list_models, project, page_size=page_size, page_token=page_token)

    def get_deployment(self, name: str) -> DeploymentRow | None:
        """Return a deployment by name: the present one, else the one of that name that went last."""
        return self._read(read.deployment_by_name, name)

    def get_traffic(self, deployment_uid: str) -> tuple[TrafficRow, dict[str, DeploymentRow]] | None:
        """Return the traffic of a deployment, with the versions of its roll-out by uid."""
        return self._read(read.traffic_of, deployment_uid)

    def list_replicas(self, version_uids: Sequence[str]) -> dict[str, list[ReplicaRow]]:
        """Return the replicas of versions that are not DELETED, by version uid, each by number."""
        return self._read(read.replicas_of, version_uids)

    def list_traffic(self, deployment_uids: Sequence[str]) -> dict[str, TrafficRow]:
        """Return the traffic of deployments by uid."""
        return {row.uid: row for row in self._read(read.traffic_of_all, deployment_uids)}

    def list_deployments(
        self, project: str, *, page_size: int = 0, page_token: str = ""
    ) -> Page[DeploymentRow]:
        """Return a page of a project's deployments that are not DELETED, newest first."""
        return self._read(read.list_deployments, project, page_size=page_size, page_token=page_token)

    def get_request(self, key: RequestKey) -> RequestRow | None:
        """Return how a request was answered, if it was."""
        return self._read(
            read.one,
            tables.requests,
            codec.request_from,
            request_id=key.request_id,
            principal=key.principal,
            method=key.method,
        )

    def read(
        self,
        function: Callable[Concatenate[Connection, _Parameters], _Result],
        *args: _Parameters.args,
        **kwargs: _Parameters.kwargs,
    ) -> _Result:
        """Read with statements of a module of its own, such as `datasets`."""
        return self._read(function, *args, **kwargs)

    def write(
        self,
        function: Callable[Concatenate[Connection, _Parameters], _Result],
        *args: _Parameters.args,
        **kwargs: _Parameters.kwargs,
    ) -> _Result:
        """Run statements in a durable transaction of their own, whole or not at all.

        For what the deciding core does not hold in memory.
        """
        try:
            with self._write_lock, self._writer.begin() as connection:
                return function(connection, *args, **kwargs)
        except DBAPIError as error:
            raise _classed(error, self.path) from error

    def _read(
        self,
        function: Callable[Concatenate[Connection, _Parameters], _Result],
        *args: _Parameters.args,
        **kwargs: _Parameters.kwargs,
    ) -> _Result:
        try:
            with self._read_lock, self._reader.begin() as connection:
                return function(connection, *args, **kwargs)
        except DBAPIError as error:
            raise _classed(error, self.path) from error


def _classed(error: DBAPIError, path: Path) -> TunefleetError:
    """Return what a failure of the database means to a caller."""
    cause = error.orig or error
    text = str(cause)
    if "database or disk is full" in text:
        return TunefleetError(
            Reason.DISK_FULL,
            f"The disk of the store {path} is full; nothing of this change was kept.",
            hint="Free space on this disk, then retry; everything acknowledged before is intact.",
            metadata={"path": str(path)},
        )
    if isinstance(cause, sqlite3.DatabaseError) and "not a database" in text:
        return TunefleetError.field(
            "store", f"{path} is not a database", hint="Give a file of its own to the coordinator."
        )
    if "database is locked" in text:
        return TunefleetError(
            Reason.UNAVAILABLE,
            f"The store {path} is locked by another process.",
            hint="Stop the other coordinator: one process at a time may write.",
            metadata={"path": str(path)},
        )
    return from_exception(cause)
