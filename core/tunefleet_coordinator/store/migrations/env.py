"""Run by Alembic for every migration command, on the connection that the store hands over."""

from __future__ import annotations

from alembic import context

from tunefleet_coordinator.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
