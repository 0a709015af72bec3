"""Which tunefleet wrote a state folder. A newer one's is refused before a byte of it is touched."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import cast
from urllib.parse import quote

from tunefleet_core import __version__
from tunefleet_core.artifacts import write_whole_file
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["STATE_FILE", "note_version", "refuse_newer", "too_new"]

STATE_FILE = "state.json"


def refuse_newer(database: Path, known: str) -> None:
    """Refuse a store of a newer schema, looking at it only.

    Args:
        database: The store's file; `state.json` lies beside it.
        known: Newest schema of this version, such as `0004`. Schemas are numbered upwards.

    Raises:
        TunefleetError: STATE_TOO_NEW naming both versions.
    """
    schema, version = _noted(database.with_name(STATE_FILE))
    for found in (schema, _stored_schema(database)):
        if found.isdecimal() and int(found) > int(known):
            raise too_new(database, schema=found, known=known, version=version)


def note_version(database: Path, schema: str) -> None:
    """Write down who wrote the folder last, for people and for older versions."""
    file = database.with_name(STATE_FILE)
    if _noted(file) != (schema, __version__):
        content = json.dumps({"schema": schema, "tunefleet": __version__}, indent=1)
        write_whole_file(file, content.encode() + b"\n")


def too_new(database: Path, *, schema: str, known: str, version: str = "") -> TunefleetError:
    """Return the error for a store that a newer tunefleet wrote."""
    writer = version or _noted(database.with_name(STATE_FILE))[1] or "a newer version"
    return TunefleetError(
        Reason.STATE_TOO_NEW,
        f"{database.parent} was written by tunefleet {writer} (schema {schema}); "
        f"this is tunefleet {__version__} (schema {known}). Nothing was touched.",
        hint=f"Start tunefleet {writer} or later, or use another state folder.",
        metadata={
            "path": str(database.parent),
            "state_version": writer,
            "state_schema": schema,
            "version": __version__,
            "schema": known,
        },
    )


def _noted(file: Path) -> tuple[str, str]:
    try:
        content: object = json.loads(file.read_text())
    except (OSError, ValueError):
        return "", ""
    values = cast("dict[str, object]", content if isinstance(content, dict) else {})
    return str(values.get("schema", "")), str(values.get("tunefleet", ""))


def _stored_schema(database: Path) -> str:
    """Return the schema in the file itself; empty if it has none, or is no store.

    `immutable` keeps SQLite from making its side files; what only they hold is seen when the
    store is opened.
    """
    if not database.is_file():
        return ""
    try:
        connection = sqlite3.connect(f"file:{quote(str(database))}?mode=ro&immutable=1", uri=True)
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        finally:
            connection.close()
    except sqlite3.Error:
        return ""
    return "" if row is None else str(row[0])
