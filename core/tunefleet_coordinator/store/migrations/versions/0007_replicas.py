"""Replicas of versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_NOT_DELETED = sa.text("state != 6")
_TO_GO = "state IN (4, 7)"  # STOPPING, DRAINING
_MOVED = ("host_id", "device_ids")


def upgrade() -> None:
    """Give every version that is not gone its one replica, which its server knows by the version's uid."""
    for column in ("replicas", "last_replica"):
        op.add_column("deployments", sa.Column(column, sa.Integer(), nullable=False, server_default="1"))
    op.create_table(
        "replicas",
        sa.Column("uid", sa.Text(), primary_key=True),
        sa.Column("version_uid", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("host_id", sa.Text(), nullable=False),
        sa.Column("device_ids", sa.Text(), nullable=False),
        sa.Column("engine_address", sa.Text(), nullable=False),
        sa.Column("contract", sa.LargeBinary(), nullable=False),
        sa.Column("error", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("replicas_by_version", "replicas", ["version_uid", "number"], unique=True)
    op.create_index(
        "replicas_not_deleted", "replicas", ["uid"], sqlite_where=_NOT_DELETED, postgresql_where=_NOT_DELETED
    )
    op.execute(
        "INSERT INTO replicas SELECT uid, uid, 1, state, 1, service, host_id, device_ids, engine_address, "
        "contract, error, '' FROM deployments WHERE state != 6"
    )
    op.execute(f"UPDATE deployments SET replicas = 0 WHERE state = 6 OR {_TO_GO}")
    for column in _MOVED:
        op.drop_column("deployments", column)


def downgrade() -> None:
    """Go back to one replica per version, the first; others are lost with the table."""
    op.add_column("deployments", sa.Column("host_id", sa.Text(), nullable=False, server_default=""))
    op.add_column("deployments", sa.Column("device_ids", sa.Text(), nullable=False, server_default="[]"))
    first = "(SELECT {} FROM replicas WHERE replicas.uid = deployments.uid)"
    for column in ("state", "service", "engine_address", "contract", "error", *_MOVED):
        op.execute(
            f"UPDATE deployments SET {column} = {first.format(column)} "
            "WHERE uid IN (SELECT uid FROM replicas WHERE state != 6)"
        )
    # Of a version whose first replica was taken away, none is kept: it waits for a server anew.
    op.execute(
        "UPDATE deployments SET state = 1, service = '', engine_address = '' "
        "WHERE state != 6 AND uid NOT IN (SELECT uid FROM replicas WHERE state != 6)"
    )
    op.drop_index("replicas_not_deleted", "replicas")
    op.drop_index("replicas_by_version", "replicas")
    op.drop_table("replicas")
    for column in ("last_replica", "replicas"):
        op.drop_column("deployments", column)
