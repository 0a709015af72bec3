"""Datasets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "datasets",
        sa.Column("uid", sa.Text(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("creator", sa.Text(), nullable=False),
        sa.Column("create_time", sa.Float(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("datasets_by_name", "datasets", ["name"], unique=True)
    op.create_index("datasets_by_project", "datasets", ["project", "create_time", "uid"])


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("datasets")
