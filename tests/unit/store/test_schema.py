"""The migrations make the tables; a newer or foreign file is refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from tunefleet_coordinator.store import Store
from tunefleet_coordinator.store.schema import HEAD_REVISION, migration_config
from tunefleet_coordinator.store.state_version import STATE_FILE, note_version
from tunefleet_coordinator.store.tables import metadata
from tunefleet_core.errors import Reason, TunefleetError


def test_the_migrations_make_exactly_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    Store.open(path).close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()
    assert differences == []
    with sqlite3.connect(path) as made:
        migrated = dict(made.execute("SELECT name, sql FROM sqlite_master WHERE sql NOT NULL").fetchall())
    made.close()
    direct = create_engine(f"sqlite:///{tmp_path / 'direct.db'}")
    metadata.create_all(direct)
    direct.dispose()
    with sqlite3.connect(tmp_path / "direct.db") as made:
        described = dict(made.execute("SELECT name, sql FROM sqlite_master WHERE sql NOT NULL").fetchall())
    made.close()
    migrated.pop("alembic_version")
    # compare_metadata knows nothing of partial indexes and WITHOUT ROWID; the statements do.
    assert {name: " ".join(sql.split()) for name, sql in migrated.items()} == {
        name: " ".join(sql.split()) for name, sql in described.items()
    }


def test_the_known_head_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(migration_config()).get_heads() == [HEAD_REVISION]


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    Store.open(path).close()
    note_version(path, "9999")
    for is_noted in (True, False):
        if not is_noted:
            (tmp_path / STATE_FILE).unlink()
        with sqlite3.connect(path) as connection:
            connection.execute(f"UPDATE alembic_version SET version_num = '{9999 if not is_noted else 1}'")
        connection.close()
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

        with pytest.raises(TunefleetError) as caught:
            Store.open(path)

        assert caught.value.reason is Reason.STATE_TOO_NEW
        assert "9999" in caught.value.message
        assert HEAD_REVISION in caught.value.message, "both versions are named"
        assert caught.value.hint
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    database = tmp_path / "other.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()
    text = tmp_path / "notes.txt"
    text.write_text("not a database at all, but long enough to have a header" * 10)

    for path in (database, text):
        with pytest.raises(TunefleetError) as caught:
            Store.open(path)
        assert caught.value.reason is Reason.FIELD_INVALID
    with pytest.raises(TunefleetError) as other:
        Store.open("postgresql://host/db")
    assert "postgresql" in other.value.message


def test_the_connection_is_durable(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'store.db'}")
    with store._writer.begin() as connection:  # pyright: ignore[reportPrivateUsage]
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2, "FULL"
    store.close()
