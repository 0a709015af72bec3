"""API tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "tokens",
        sa.Column("token_id", sa.Text(), primary_key=True),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("create_time", sa.Float(), nullable=False),
        sa.Column("expire_time", sa.Float()),
        sa.Column("creator", sa.Text(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("tokens_by_digest", "tokens", ["digest"], unique=True)


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("tokens")
