"""How far servers are with what they fetch for replicas."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_PREPARING, _STARTING = 10, 2


def upgrade() -> None:
    """Give replicas the column."""
    op.add_column("replicas", sa.Column("download", sa.LargeBinary()))


def downgrade() -> None:
    """Go back; what is prepared was said to start."""
    for table in ("replicas", "deployments"):
        op.execute(f"UPDATE {table} SET state = {_STARTING} WHERE state = {_PREPARING}")
    op.drop_column("replicas", "download")
