"""Checkpoints on request."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_COLUMNS = ("saves_on_request", "checkpoint_requests")


def upgrade() -> None:
    """Add the columns; attempts from before save at their own times alone."""
    for column in _COLUMNS:
        op.add_column("attempts", sa.Column(column, sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Drop the columns."""
    for column in _COLUMNS:
        op.drop_column("attempts", column)
