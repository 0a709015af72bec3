"""Connections to SQLite with the settings that durability and speed depend on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import StaticPool

from tunefleet_core.errors import TunefleetError

__all__ = ["open_reader", "open_writer", "path_of"]

_BUSY_MILLISECONDS = 5000
_SQLITE_PREFIX = "sqlite:///"


def path_of(location: str | Path) -> Path:
    """Return the file of a path or of a `sqlite:///` URL.

    Raises:
        TunefleetError: FIELD_INVALID for a URL of another database.
    """
    text = str(location)
    if text.startswith(_SQLITE_PREFIX):
        return Path(text.removeprefix(_SQLITE_PREFIX))
    if "://" in text:
        scheme = text.split("://", maxsplit=1)[0]
        raise TunefleetError.field(
            "store",
            f"'{scheme}' is not a store that this version can use",
            hint="Give a path, or sqlite:///PATH.",
        )
    return Path(text)


def open_writer(path: Path) -> Engine:
    """Return an engine with the one connection that writes.

    WAL lets readers go on while it writes; synchronous=FULL makes a commit survive a power
    cut. On macOS fsync does not reach the platter, F_FULLFSYNC does (SQLite: "fullfsync").
    """
    engine = create_engine(
        f"sqlite:///{path}", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    pragmas = [
        f"busy_timeout = {_BUSY_MILLISECONDS}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "temp_store = MEMORY",
        "cache_size = -32768",
        # 32 MB: a commit that checkpoints takes the longest of all, and coming by less often it also
        # writes a page that changed many times once.
        "wal_autocheckpoint = 8000",
    ]
    if sys.platform == "darwin":
        pragmas += ["fullfsync = ON", "checkpoint_fullfsync = ON"]
    _prepare(engine, pragmas, begin="BEGIN IMMEDIATE")
    return engine


def open_reader(path: Path) -> Engine:
    """Return an engine with a connection that cannot write."""
    engine = create_engine(
        f"sqlite:///file:{quote(str(path))}?mode=ro&uri=true",
        poolclass=StaticPool,
        connect_args={"check_same_thread": False},
    )
    _prepare(engine, [f"busy_timeout = {_BUSY_MILLISECONDS}", "query_only = ON"], begin="BEGIN")
    return engine


def _prepare(engine: Engine, pragmas: list[str], *, begin: str) -> None:
    def connected(connection: Any, record: object) -> None:
        del record
        # Python's own transaction handling would start transactions where it sees fit; ours
        # start where SQLAlchemy says so, and take the write lock at once.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def began(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", began)
