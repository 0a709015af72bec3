"""Writing batches: many operations in one transaction, each isolated from its neighbours.

The normal case is fast: all operations together, changes of one row folded into one
statement, one executemany per table. Only when the database finds fault with the batch
is it written again operation by operation, each in a savepoint, to find out whose fault
it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import Connection, Delete, Insert, Table, Update, bindparam, delete, select, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import IntegrityError

from tunefleet_coordinator.store import tables
from tunefleet_coordinator.store.codec import columns_of, table_of
from tunefleet_coordinator.store.conflict import Conflict, Dependent
from tunefleet_core.errors import TunefleetError
from tunefleet_core.lifecycle import (
    Change,
    EventsAppended,
    EventsDropped,
    JobRow,
    Key,
    Row,
    RowChange,
    RowRemoved,
    footprint,
    is_durable,
)

__all__ = ["write_each", "write_together"]

_DIALECT = sqlite.dialect(paramstyle="qmark")


@dataclass(slots=True)
class _Net:
    """What a row was before and is after a run of changes."""

    old: Row | None
    new: Row


@dataclass(slots=True)
class _Plan:
    """Statements for some changes: updates, then inserts, so that a freed unique key can be taken again.

    What is removed goes last, with all that was written of it in the same batch.
    """

    updates: dict[Table, list[dict[str, Any]]] = field(default_factory=dict[Table, list[dict[str, Any]]])
    inserts: dict[Table, list[dict[str, Any]]] = field(default_factory=dict[Table, list[dict[str, Any]]])
    removals: list[RowRemoved] = field(default_factory=list[RowRemoved])
    drops: list[EventsDropped] = field(default_factory=list[EventsDropped])
    keys: list[Key] = field(default_factory=list[Key])


def write_together(connection: Connection, batch: Sequence[Sequence[Change]]) -> None:
    """Write every operation of a batch, all or nothing.

    Raises:
        Conflict: Some row was not as expected; nothing about whose operation it was.
        sqlalchemy.exc.SQLAlchemyError: The database failed.
    """
    _execute(connection, _plan(change for operation in batch for change in operation))


def write_each(connection: Connection, batch: Sequence[Sequence[Change]]) -> list[TunefleetError | None]:
    """Write the operations of a batch one by one; a conflict fails that operation only.

    An operation whose footprint meets that of a failed earlier one fails as Dependent.
    """
    results: list[TunefleetError | None] = []
    failed: set[Key] = set()
    for operation in batch:
        touches = footprint(operation)
        if not failed.isdisjoint(touches):
            failed |= touches
            results.append(Dependent())
            continue
        savepoint = connection.begin_nested()
        try:
            _execute(connection, _plan(operation))
        except Conflict as conflict:
            savepoint.rollback()
            failed |= touches
            results.append(conflict)
        else:
            savepoint.commit()
            results.append(None)
    return results


def _plan(changes: Iterable[Change]) -> _Plan:
    plan = _Plan()
    nets: dict[Key, _Net] = {}
    for change in changes:
        if isinstance(change, EventsAppended):
            plan.inserts.setdefault(tables.event_segments, []).append(_segment(change))
            plan.keys.append(("job", change.job_uid, 0))
        elif isinstance(change, EventsDropped):
            plan.drops.append(change)
        elif isinstance(change, RowRemoved):
            plan.removals.append(change)
            plan.keys.append(change.key)
        elif is_durable(change):
            _fold(nets, change)
    for key, net in nets.items():
        plan.keys.append(key)
        columns = columns_of(net.new)
        table = table_of(net.new)
        if net.old is None:
            plan.inserts.setdefault(table, []).append(columns)
        else:
            columns["expected_version"] = net.old.version
            for column in table.primary_key.columns:
                columns[f"key_{column.name}"] = columns[column.name]
            plan.updates.setdefault(table, []).append(columns)
    return plan


def _fold(nets: dict[Key, _Net], change: RowChange) -> None:
    net = nets.get(change.key)
    if net is None:
        nets[change.key] = _Net(change.old, change.new)
        return
    if change.old is None or change.old.version != net.new.version:
        raise Conflict(f"Row {change.key} is written twice from different versions.", [change.key])
    net.new = change.new


def _segment(appended: EventsAppended) -> dict[str, Any]:
    return {
        "job_uid": appended.job_uid,
        "first_sequence": appended.first_sequence,
        "last_sequence": appended.last_sequence,
        "payload": appended.payload,
    }


def _execute(connection: Connection, plan: _Plan) -> None:
    try:
        for table, rows in plan.updates.items():
            if _compare_and_set(table).run(connection, rows) != len(rows):
                raise Conflict(f"A row of {table.name} has another version than expected.", plan.keys)
        for table, rows in plan.inserts.items():
            _insert(table).run(connection, rows)
        for dropped in plan.drops:
            connection.execute(_segments_up_to(dropped))
        for removed in plan.removals:
            if connection.execute(_removal(removed.old)).rowcount != 1:
                raise Conflict("A row to remove has another version than expected.", [removed.key])
            if isinstance(removed.old, JobRow):
                _remove_what_belongs_to(connection, removed.old)
    except IntegrityError as error:
        raise Conflict(f"A key is taken: {error.orig}.", plan.keys) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """A statement as the driver takes it, and the order of its values.

    SQLAlchemy writes it once. Run by SQLAlchemy it would be compared with those it has compiled, and every
    row gone through twice: that was 4 parts in 10 of the CPU of a commit.
    """

    text: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, statement: Insert | Update) -> _Prepared:
        compiled = statement.compile(dialect=_DIALECT)
        return cls(text=str(compiled), names=tuple(compiled.positiontup or ()))

    def run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """Run it for every row; return how many rows of the table it met."""
        values = [tuple([row[name] for name in self.names]) for row in rows]
        return connection.exec_driver_sql(self.text, values).rowcount


@cache
def _insert(table: Table) -> _Prepared:
    return _Prepared.of(table.insert())


@cache
def _compare_and_set(table: Table) -> _Prepared:
    """Return `UPDATE table SET every column WHERE key AND version = :expected_version`."""
    keys = [column for column in table.primary_key.columns]
    others = [column for column in table.columns if not column.primary_key]
    statement = update(table).where(table.c.version == bindparam("expected_version"))
    for column in keys:
        statement = statement.where(column == bindparam(f"key_{column.name}"))
    return _Prepared.of(statement.values({column.name: bindparam(column.name) for column in others}))


def _removal(row: Row) -> Delete:
    """Return `DELETE FROM table WHERE key AND version = the row's`."""
    table, columns = table_of(row), columns_of(row)
    statement = delete(table).where(table.c.version == row.version)
    for column in table.primary_key.columns:
        statement = statement.where(column == columns[column.name])
    return statement


def _segments_up_to(dropped: EventsDropped) -> Delete:
    segments = tables.event_segments
    return delete(segments).where(
        segments.c.job_uid == dropped.job_uid, segments.c.last_sequence <= dropped.through_sequence
    )


def _remove_what_belongs_to(connection: Connection, job: JobRow) -> None:
    """Remove what a job leaves but the manifests of models: they are what was served and is served."""
    for table in (tables.specs, tables.attempts, tables.event_segments):
        connection.execute(delete(table).where(table.c.job_uid == job.uid))
    manifests, models = tables.manifests, tables.models
    of_models = select(models.c.manifest_digest)
    unused = (manifests.c.job_uid == job.uid, manifests.c.digest.not_in(of_models))
    connection.execute(delete(manifests).where(*unused))
