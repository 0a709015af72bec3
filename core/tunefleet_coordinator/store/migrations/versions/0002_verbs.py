"""What pausing, draining, labels and bounded histories need."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

from tunefleet.job.v1.spec_pb2 import JobSpec

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; jobs from before get the labels of their specs and the size of their histories."""
    op.add_column("jobs", sa.Column("next_try_time", sa.Float()))
    op.add_column("jobs", _integer("resume_requested", "0"))
    op.add_column("jobs", sa.Column("labels", sa.Text(), nullable=False, server_default="[]"))
    op.add_column("jobs", _integer("oldest_sequence", "1"))
    op.add_column("jobs", _integer("history_bytes", "0"))
    op.add_column("attempts", _integer("is_resumable", "1"))
    op.add_column("services", _integer("is_draining", "0"))
    op.execute(
        "UPDATE jobs SET history_bytes = (SELECT coalesce(sum(length(payload)), 0)"
        " FROM event_segments WHERE job_uid = jobs.uid)"
    )
    _copy_labels()


def downgrade() -> None:
    """Drop the columns."""
    for column in ("next_try_time", "resume_requested", "labels", "oldest_sequence", "history_bytes"):
        op.drop_column("jobs", column)
    op.drop_column("attempts", "is_resumable")
    op.drop_column("services", "is_draining")


def _integer(name: str, default: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False, server_default=default)


def _copy_labels() -> None:
    connection = op.get_bind()
    change = sa.text("UPDATE jobs SET labels = :labels WHERE uid = :uid")
    for uid, spec in connection.execute(sa.text("SELECT job_uid, spec FROM specs")).fetchall():
        labels = sorted(JobSpec.FromString(spec).labels.items())
        if labels:
            connection.execute(change, {"uid": uid, "labels": json.dumps(labels)})
