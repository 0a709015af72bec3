"""Reading: statements and what comes back, on whatever connection is handed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, Table, bindparam, func, select, tuple_

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet.job.v1.job_service_pb2 import JobEvents
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_coordinator.store import codec, tables
from tunefleet_coordinator.store.pages import Page, page_length, position_of, token_of
from tunefleet_core.lifecycle import (
    AttemptRow,
    AttemptState,
    DeploymentRow,
    JobRow,
    Key,
    Labels,
    ManifestRow,
    ModelRow,
    ReplicaRow,
    Row,
    SpecRow,
    TrafficRow,
)

__all__ = [
    "attempts_of_job",
    "beyond_bounds",
    "deployment_by_name",
    "events_after",
    "list_checkpoints",
    "list_deployments",
    "list_jobs",
    "list_models",
    "manifest_by_digest",
    "next_queue_number",
    "one",
    "replicas_of",
    "rows_of_keys",
    "specs_of_jobs",
    "traffic_of",
    "traffic_of_all",
    "working_set",
]

_CHUNK = 500
_TERMINAL = (JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_FAILED, JobState.JOB_STATE_CANCELLED)

_Item = TypeVar("_Item")


def one(
    connection: Connection, table: Table, make: Callable[[codec.Columns], _Item], **equal: Any
) -> _Item | None:
    """Return the row whose columns equal the given values, or None."""
    row = connection.execute(_one_of(table, tuple(equal)), equal).mappings().first()
    return None if row is None else make(dict(row))


@cache
def _one_of(table: Table, names: tuple[str, ...]) -> Select[Any]:
    """Return the statement of `one`; building it takes as long as running it."""
    return select(table).where(*(table.c[name] == bindparam(name) for name in names)).limit(1)


def working_set(connection: Connection) -> list[Row]:
    """Return every row that can still change."""
    jobs, attempts, deployments = tables.jobs, tables.attempts, tables.deployments
    # The literal text of the partial index's condition, so that SQLite uses it.
    live_jobs = select(jobs).where(jobs.c.state.not_in(_TERMINAL))
    live_attempts = select(attempts).where(attempts.c.state != int(AttemptState.ENDED))
    present = select(deployments).where(deployments.c.state != DeploymentState.DEPLOYMENT_STATE_DELETED)
    rows: list[Row] = [*_all(connection, select(tables.services), codec.service_from)]
    rows += _all(connection, live_jobs.order_by(jobs.c.queue_number), codec.job_from)
    rows += _all(connection, live_attempts, codec.attempt_from)
    rows += _all(connection, present.order_by(deployments.c.create_time), codec.deployment_from)
    replicas = tables.replicas
    standing = select(replicas).where(replicas.c.state != DeploymentState.DEPLOYMENT_STATE_DELETED)
    rows += _all(connection, standing.order_by(replicas.c.number), codec.replica_from)
    going = select(tables.traffic).where(tables.traffic.c.is_over == 0)
    rows += _all(connection, going, codec.traffic_from)
    return rows


def next_queue_number(connection: Connection) -> int:
    """Return a queue number higher than any that was given."""
    highest = connection.execute(select(func.max(tables.jobs.c.queue_number))).scalar()
    return 1 + (highest or 0)


def rows_of_keys(connection: Connection, keys: Sequence[Key]) -> list[Row]:
    """Return the rows of keys, in no particular order; missing ones are left out.

    A ("name", name, 0) key gives the job or the model of that name.
    """
    found: list[Row] = []
    for start in range(0, len(keys), _CHUNK):
        by_table: dict[str, list[Key]] = {}
        for key in keys[start : start + _CHUNK]:
            by_table.setdefault(key[0], []).append(key)
        for table, part in by_table.items():
            found += _rows_of(connection, table, part)
    return found


def specs_of_jobs(connection: Connection, job_uids: Sequence[str]) -> list[SpecRow]:
    """Return the specs of jobs, in no particular order."""
    return _among(connection, tables.specs, codec.spec_from, job_uid=list(job_uids))


def _rows_of(connection: Connection, table: str, keys: Sequence[Key]) -> Iterable[Row]:
    first = [key[1] for key in keys]
    pairs = [(key[1], key[2]) for key in keys]
    match table:
        case "name":
            return [
                *_among(connection, tables.jobs, codec.job_from, name=first),
                *_among(connection, tables.models, codec.model_from, name=first),
            ]
        case "job":
            return _among(connection, tables.jobs, codec.job_from, uid=first)
        case "service":
            return _among(connection, tables.services, codec.service_from, name=first)
        case "deployment":
            return _among(connection, tables.deployments, codec.deployment_from, uid=first)
        case "replica":
            return _among(connection, tables.replicas, codec.replica_from, uid=first)
        case "traffic":
            return _among(connection, tables.traffic, codec.traffic_from, uid=first)
        case "attempt":
            where = tuple_(tables.attempts.c.job_uid, tables.attempts.c.attempt).in_(pairs)
            return _all(connection, select(tables.attempts).where(where), codec.attempt_from)
        case "manifest":
            where = tuple_(tables.manifests.c.digest, tables.manifests.c.job_uid).in_(pairs)
            return _all(connection, select(tables.manifests).where(where), codec.manifest_from)
        case "request":
            wanted = set(keys)
            ids = [key[2] for key in keys]
            found = _among(connection, tables.requests, codec.request_from, request_id=ids)
            return [row for row in found if row.key in wanted]
        case _:
            return []


def _among(
    connection: Connection,
    table: Table,
    make: Callable[[codec.Columns], _Item],
    **values: Sequence[object],
) -> list[_Item]:
    """Return the rows in which the one column that is named has one of some values."""
    ((column, wanted),) = values.items()
    return [
        make(dict(row)) for row in connection.execute(_in_of(table, column), {"wanted": wanted}).mappings()
    ]


@cache
def _in_of(table: Table, column: str) -> Select[Any]:
    """Return the statement of `_among`; every batch of submits asks three of them."""
    return select(table).where(table.c[column].in_(bindparam("wanted", expanding=True)))


def list_jobs(
    connection: Connection,
    project: str,
    *,
    states: Sequence[JobState.ValueType],
    labels: Labels,
    page_size: int,
    page_token: str,
) -> Page[JobRow]:
    """Return a page of a project's jobs that carry all the given labels, newest first."""
    jobs = tables.jobs
    statement = select(jobs).where(jobs.c.project == project).order_by(jobs.c.queue_number.desc())
    if states:
        statement = statement.where(jobs.c.state.in_(states))
    for name, value in labels:
        # Not LIKE, which takes `a` for `A` in SQLite.
        without = func.replace(jobs.c.labels, codec.label_text(name, value), "")
        statement = statement.where(without != jobs.c.labels)
    position = position_of(page_token, (int,))
    if position is not None:
        statement = statement.where(jobs.c.queue_number < position[0])
    return _page(connection, statement, codec.job_from, page_size, lambda job: (job.queue_number,))


def list_models(connection: Connection, project: str, *, page_size: int, page_token: str) -> Page[ModelRow]:
    """Return a page of a project's models, newest first."""
    statement = _newest_first(tables.models, project, page_token)
    return _page(
        connection, statement, codec.model_from, page_size, lambda model: (model.create_time, model.uid)
    )


def list_deployments(
    connection: Connection, project: str, *, page_size: int, page_token: str
) -> Page[DeploymentRow]:
    """Return a page of a project's deployments that are not gone, newest first: the version of each name."""
    deployments = tables.deployments
    statement = _newest_first(deployments, project, page_token).where(
        deployments.c.state != DeploymentState.DEPLOYMENT_STATE_DELETED, deployments.c.is_current == 1
    )
    return _page(
        connection, statement, codec.deployment_from, page_size, lambda row: (row.create_time, row.uid)
    )


def list_checkpoints(
    connection: Connection, job_uid: str, *, page_size: int, page_token: str
) -> Page[ManifestRow]:
    """Return a page of a job's committed checkpoints, newest step first."""
    manifests = tables.manifests
    order = manifests.c.step, manifests.c.digest
    statement = (
        select(manifests)
        .where(manifests.c.job_uid == job_uid)
        .where(manifests.c.kind == ArtifactKind.ARTIFACT_KIND_CHECKPOINT)
        .order_by(*(column.desc() for column in order))
    )
    position = position_of(page_token, (int, str))
    if position is not None:
        statement = statement.where(tuple_(*order) < position)
    return _page(connection, statement, codec.manifest_from, page_size, lambda row: (row.step, row.digest))


def deployment_by_name(connection: Connection, name: str) -> DeploymentRow | None:
    """Return the version that a name stands for if it is not gone; else the one that went last."""
    deployments = tables.deployments
    gone = deployments.c.state == DeploymentState.DEPLOYMENT_STATE_DELETED
    statement = select(deployments).where(deployments.c.name == name, deployments.c.is_current == 1)
    found = _all(
        connection,
        statement.order_by(gone, deployments.c.create_time.desc()).limit(1),
        codec.deployment_from,
    )
    return found[0] if found else None


def traffic_of(
    connection: Connection, deployment_uid: str
) -> tuple[TrafficRow, dict[str, DeploymentRow]] | None:
    """Return the traffic of a deployment and the versions of its roll-out by uid, of one moment."""
    found = traffic_of_all(connection, [deployment_uid])
    if not found:
        return None
    uids = [found[0].current, found[0].candidate]
    rows = _among(connection, tables.deployments, codec.deployment_from, uid=uids)
    return found[0], {row.uid: row for row in rows}


def traffic_of_all(connection: Connection, deployment_uids: Sequence[str]) -> list[TrafficRow]:
    """Return the traffic of deployments, in no particular order."""
    return _among(connection, tables.traffic, codec.traffic_from, uid=list(deployment_uids))


def replicas_of(connection: Connection, version_uids: Sequence[str]) -> dict[str, list[ReplicaRow]]:
    """Return the replicas of versions that are not DELETED, by version uid and number."""
    replicas = tables.replicas
    statement = select(replicas).where(
        replicas.c.version_uid.in_(list(version_uids)),
        replicas.c.state != DeploymentState.DEPLOYMENT_STATE_DELETED,
    )
    found: dict[str, list[ReplicaRow]] = {}
    for row in _all(connection, statement.order_by(replicas.c.number), codec.replica_from):
        found.setdefault(row.version_uid, []).append(row)
    return found


def manifest_by_digest(connection: Connection, digest: str) -> ManifestRow | None:
    """Return a manifest with this digest, of whichever job."""
    return one(connection, tables.manifests, codec.manifest_from, digest=digest)


def attempts_of_job(connection: Connection, job_uid: str) -> list[AttemptRow]:
    """Return every attempt of a job, oldest first."""
    attempts = tables.attempts
    statement = select(attempts).where(attempts.c.job_uid == job_uid).order_by(attempts.c.attempt)
    return _all(connection, statement, codec.attempt_from)


def events_after(connection: Connection, job_uid: str, *, after: int, limit: int) -> list[JobEvent]:
    """Return at most `limit` events with a sequence above `after`, in order."""
    segments = tables.event_segments
    statement = (
        select(segments.c.payload)
        .where(segments.c.job_uid == job_uid, segments.c.last_sequence > after)
        .order_by(segments.c.first_sequence)
    )
    # Segments do not overlap, so the one that holds `after + 1` begins at or before it: without this
    # bound the search would start at the job's first segment every time.
    start = (
        select(func.max(segments.c.first_sequence))
        .where(segments.c.job_uid == job_uid, segments.c.first_sequence <= after + 1)
        .scalar_subquery()
    )
    statement = statement.where(segments.c.first_sequence >= func.coalesce(start, 0)).limit(limit)
    events: list[JobEvent] = []
    for (payload,) in connection.execute(statement):
        for item in JobEvents.FromString(payload).events:
            if item.sequence > after and len(events) < limit:
                events.append(item)
        if len(events) >= limit:
            break
    return events


def beyond_bounds(connection: Connection, job_uid: str, *, events: int, size: int) -> tuple[int, int] | None:
    """Return where to cut a history so that its newest segments fit both bounds.

    Args:
        events: Most events to keep.
        size: Most bytes to keep.

    Returns:
        (last sequence to give up, bytes given up); None if everything fits. The newest segment stays.
    """
    segments = tables.event_segments
    length = func.length(segments.c.payload)
    statement = select(segments.c.first_sequence, segments.c.last_sequence, length)
    rows = connection.execute(
        statement.where(segments.c.job_uid == job_uid).order_by(segments.c.first_sequence.desc())
    ).fetchall()
    kept_bytes = 0
    for index, (first, last, length_bytes) in enumerate(rows):
        kept_bytes += length_bytes
        if index and (rows[0].last_sequence - first + 1 > events or kept_bytes > size):
            return last, sum(row[2] for row in rows[index:])
    return None


def _newest_first(table: Table, project: str, page_token: str) -> Select[Any]:
    order = table.c.create_time, table.c.uid
    statement = select(table).where(table.c.project == project)
    position = position_of(page_token, (float, str))
    if position is not None:
        statement = statement.where(tuple_(*order) < position)
    return statement.order_by(*(column.desc() for column in order))


def _all(
    connection: Connection, statement: Select[Any], make: Callable[[codec.Columns], _Item]
) -> list[_Item]:
    return [make(dict(row)) for row in connection.execute(statement).mappings()]


def _page(
    connection: Connection,
    statement: Select[Any],
    make: Callable[[codec.Columns], _Item],
    page_size: int,
    position: Callable[[_Item], tuple[str | int | float, ...]],
) -> Page[_Item]:
    length = page_length(page_size)
    items = _all(connection, statement.limit(length + 1), make)
    if len(items) <= length:
        return Page(items=tuple(items))
    return Page(items=tuple(items[:length]), next_page_token=token_of(*position(items[length - 1])))
