"""How often replicas failed, and until when they wait."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_WAITING_RETRY, _FAILED = 9, 5
_COUNTS = ("failures", "earlier_tries")


def upgrade() -> None:
    """Give replicas the columns; what drains is waited for from the start, as it was."""
    for column in _COUNTS:
        op.add_column("replicas", sa.Column(column, sa.Integer(), nullable=False, server_default="0"))
    op.add_column("replicas", sa.Column("due_time", sa.Float()))


def downgrade() -> None:
    """Go back; what waits for its next try has failed."""
    for table in ("replicas", "deployments"):
        op.execute(f"UPDATE {table} SET state = {_FAILED} WHERE state = {_WAITING_RETRY}")
    for column in ("due_time", *_COUNTS):
        op.drop_column("replicas", column)
