"""Datasets: rows that never change, so they live in the store alone and not in the deciding core."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, cast

from sqlalchemy import Column, Connection, Float, Index, Integer, Table, Text, delete, select, tuple_

from tunefleet_coordinator.store import tables
from tunefleet_coordinator.store.answers import answered, remember
from tunefleet_coordinator.store.pages import Page, page_length, position_of, token_of
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import Labels, Request

__all__ = ["DatasetRow", "dataset_by_name", "delete_dataset", "insert_dataset", "list_datasets"]

datasets = Table(
    "datasets",
    tables.metadata,
    Column("uid", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("format", Text, nullable=False),
    Column("labels", Text, nullable=False),
    Column("creator", Text, nullable=False),
    Column("create_time", Float, nullable=False),
    Index("datasets_by_name", "name", unique=True),
    Index("datasets_by_project", "project", "create_time", "uid"),
    sqlite_with_rowid=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRow:
    """A dataset. Key: uid; `name` is unique among those that are there. Never changes."""

    uid: str
    name: str
    """`projects/{project}/datasets/{dataset}`."""
    project: str
    sha256: str
    size_bytes: int
    rows: int
    format: str
    labels: Labels
    creator: str
    create_time: float


def insert_dataset(connection: Connection, row: DatasetRow, request: Request | None) -> DatasetRow:
    """Add a dataset, once per request; the same rows under the same name are the same dataset.

    Raises:
        TunefleetError: DATASET_EXISTS if other rows have the name, REQUEST_ID_REUSED.
    """
    known = answered(connection, request)
    if known is not None:
        return require_dataset(connection, known)
    there = dataset_by_name(connection, row.name)
    if there is not None and (there.sha256 != row.sha256 or there.labels != row.labels):
        raise TunefleetError(
            Reason.DATASET_EXISTS,
            f"'{row.name}' is taken by other rows.",
            hint="Pick another id, or delete the dataset first.",
            metadata={"name": row.name, "sha256": there.sha256},
        )
    if there is None:
        values = {item.name: getattr(row, item.name) for item in fields(row)}
        values["labels"] = json.dumps(row.labels)
        connection.execute(datasets.insert().values(values))
    remember(connection, request, row.name, row.create_time)
    return there or row


def dataset_by_name(connection: Connection, name: str) -> DatasetRow | None:
    """Return a dataset by its full name."""
    found = connection.execute(select(datasets).where(datasets.c.name == name)).mappings().first()
    return None if found is None else _row(dict(found))


def require_dataset(connection: Connection, name: str) -> DatasetRow:
    """Return a dataset by its full name. Raises DATASET_NOT_FOUND."""
    row = dataset_by_name(connection, name)
    if row is None:
        raise TunefleetError(
            Reason.DATASET_NOT_FOUND,
            f"No dataset '{name.rpartition('/')[2]}' in project '{name.split('/')[1]}'.",
            hint="tunefleet datasets list",
            metadata={"name": name},
        )
    return row


def list_datasets(
    connection: Connection, project: str, *, page_size: int, page_token: str
) -> Page[DatasetRow]:
    """Return a page of a project's datasets, newest first."""
    order = datasets.c.create_time, datasets.c.uid
    statement = select(datasets).where(datasets.c.project == project)
    position = position_of(page_token, (float, str))
    if position is not None:
        statement = statement.where(tuple_(*order) < position)
    length = page_length(page_size)
    statement = statement.order_by(*(column.desc() for column in order)).limit(length + 1)
    rows = [_row(dict(found)) for found in connection.execute(statement).mappings()]
    token = token_of(rows[length - 1].create_time, rows[length - 1].uid) if len(rows) > length else ""
    return Page(items=tuple(rows[:length]), next_page_token=token)


def delete_dataset(
    connection: Connection, name: str, request: Request | None, *, allow_missing: bool, at: float
) -> None:
    """Remove a dataset; its blob goes with a prune, once no job needs it.

    Raises:
        TunefleetError: DATASET_NOT_FOUND, REQUEST_ID_REUSED.
    """
    if answered(connection, request) is not None:
        return
    if not allow_missing:
        require_dataset(connection, name)
    connection.execute(delete(datasets).where(datasets.c.name == name))
    remember(connection, request, name, at)


def _row(values: dict[str, Any]) -> DatasetRow:
    labels = cast("list[list[str]]", json.loads(values.pop("labels")))
    return DatasetRow(labels=tuple((name, value) for name, value in labels), **values)
