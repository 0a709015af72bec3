"""Versions of deployments, and what their traffic is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_NOT_DELETED = sa.text("state != 6")
_NOT_OVER = sa.text("is_over = 0")


def upgrade() -> None:
    """Add the columns and the table; deployments from before are the first of their versions."""
    op.add_column("deployments", sa.Column("number", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("deployments", sa.Column("of", sa.Text(), nullable=False, server_default=""))
    op.add_column("deployments", sa.Column("is_current", sa.Integer(), nullable=False, server_default="1"))
    _index_names("name", "number")
    op.create_table(
        "traffic",
        sa.Column("uid", sa.Text(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("is_over", sa.Integer(), nullable=False),
        sa.Column("last_number", sa.Integer(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("policy", sa.LargeBinary(), nullable=False),
        sa.Column("current", sa.Text(), nullable=False),
        sa.Column("candidate", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("step_time", sa.Float(), nullable=False),
        sa.Column("start_time", sa.Float(), nullable=False),
        sa.Column("end_time", sa.Float()),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("evaluate_uid", sa.Text(), nullable=False),
        sa.Column("evaluation", sa.Integer(), nullable=False),
        sa.Column("current_counts", sa.LargeBinary(), nullable=False),
        sa.Column("candidate_counts", sa.LargeBinary(), nullable=False),
        sa.Column("last_sequence", sa.Integer(), nullable=False),
        sa.Column("history", sa.LargeBinary(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "traffic_not_over", "traffic", ["uid"], sqlite_where=_NOT_OVER, postgresql_where=_NOT_OVER
    )
    op.execute(
        "INSERT INTO traffic SELECT uid, name, 1, 0, 1, 0, x'', '', '', 0, 0.0, 0.0, NULL, '', '', 0, "
        "x'', x'', 0, x'' FROM deployments WHERE state != 6"
    )


def downgrade() -> None:
    """Drop them; a version that is not the one of its deployment's name is lost with them."""
    op.drop_index("traffic_not_over", "traffic")
    op.drop_table("traffic")
    op.execute("UPDATE deployments SET state = 6 WHERE is_current = 0")
    _index_names("name")
    for column in ("is_current", "of", "number"):
        op.drop_column("deployments", column)


def _index_names(*columns: str) -> None:
    op.drop_index("deployments_by_name", "deployments")
    op.create_index(
        "deployments_by_name",
        "deployments",
        list(columns),
        unique=True,
        sqlite_where=_NOT_DELETED,
        postgresql_where=_NOT_DELETED,
    )
