"""Join tokens, and the certificates of services of other machines."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "join_tokens",
        sa.Column("token_id", sa.Text(), primary_key=True),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("hosts", sa.Text(), nullable=False),
        sa.Column("uses_left", sa.Integer(), nullable=False),
        sa.Column("create_time", sa.Float(), nullable=False),
        sa.Column("expire_time", sa.Float(), nullable=False),
        sa.Column("creator", sa.Text(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("join_tokens_by_digest", "join_tokens", ["digest"], unique=True)
    op.create_table(
        "certificates",
        sa.Column("sha256", sa.Text(), primary_key=True),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("key_sha256", sa.Text(), nullable=False),
        sa.Column("hosts", sa.Text(), nullable=False),
        sa.Column("create_time", sa.Float(), nullable=False),
        sa.Column("expire_time", sa.Float(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("certificates_by_service", "certificates", ["service"])


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("certificates")
    op.drop_table("join_tokens")
