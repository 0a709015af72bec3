"""Bringing a database file to the schema of this version, or refusing it."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text

from tunefleet_coordinator.store.state_version import too_new
from tunefleet_core.errors import TunefleetError

__all__ = ["HEAD_REVISION", "migration_config", "migrate"]

HEAD_REVISION = "0010"
"""Newest migration. Known here so that a start at the newest schema runs no migration code."""


def migrate(engine: Engine, path: Path) -> None:
    """Create or upgrade the tables.

    Raises:
        TunefleetError: STATE_TOO_NEW if a newer version has written the file;
            FIELD_INVALID if it is a database of something else.
    """
    with engine.connect() as connection:
        revision = _revision(connection, path)
        connection.rollback()
        if revision == HEAD_REVISION:
            return
        config = migration_config()
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if revision is not None and revision not in known:
            raise too_new(path, schema=revision, known=HEAD_REVISION)
        with connection.begin():
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def migration_config() -> Config:
    """Return Alembic's configuration of the packaged migrations."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def _revision(connection: Connection, path: Path) -> str | None:
    names = inspect(connection).get_table_names()
    if "alembic_version" in names:
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if names:
        raise TunefleetError.field(
            "store",
            f"{path} is a database of something else (tables: {', '.join(sorted(names)[:3])})",
            hint="Give a file of its own to the coordinator.",
        )
    return None
