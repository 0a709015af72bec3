"""The first schema.

A migration is history: it says what the tables were and is never changed afterwards, so
it repeats `tables.py` instead of importing it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table."""
    _create_jobs()
    _create_specs()
    _create_attempts()
    _create_services()
    _create_manifests()
    _create_models()
    _create_deployments()
    _create_requests()
    _create_event_segments()


def downgrade() -> None:
    """Drop every table."""
    for table in (
        "jobs",
        "specs",
        "attempts",
        "services",
        "manifests",
        "models",
        "deployments",
        "requests",
        "event_segments",
    ):
        op.drop_table(table)


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("uid", sa.Text(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("queue_number", sa.Integer(), nullable=False),
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("devices_needed", sa.Integer(), nullable=False),
        sa.Column("required_labels", sa.Text(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("resolved_spec_digest", sa.Text(), nullable=False),
        sa.Column("creator", sa.Text(), nullable=False),
        sa.Column("create_time", sa.Float(), nullable=False),
        sa.Column("update_time", sa.Float(), nullable=False),
        sa.Column("start_time", sa.Float()),
        sa.Column("end_time", sa.Float()),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("fencing_number", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("cancel_requested", sa.Integer(), nullable=False),
        sa.Column("checkpoint_step", sa.Integer()),
        sa.Column("checkpoint_digest", sa.Text()),
        sa.Column("checkpoint_attempt", sa.Integer()),
        sa.Column("output_digest", sa.Text(), nullable=False),
        sa.Column("result", sa.LargeBinary(), nullable=False),
        sa.Column("error", sa.LargeBinary(), nullable=False),
        sa.Column("progress", sa.LargeBinary(), nullable=False),
        sa.Column("last_sequence", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("jobs_by_name", "jobs", ["name"], unique=True)
    op.create_index("jobs_by_project", "jobs", ["project", "queue_number"])
    op.create_index("jobs_by_queue_number", "jobs", ["queue_number"])
    op.create_index(
        "jobs_not_terminal",
        "jobs",
        ["uid"],
        sqlite_where=sa.text("state NOT IN (8, 9, 10)"),
        postgresql_where=sa.text("state NOT IN (8, 9, 10)"),
    )


def _create_specs() -> None:
    op.create_table(
        "specs",
        sa.Column("job_uid", sa.Text(), primary_key=True),
        sa.Column("spec", sa.LargeBinary(), nullable=False),
        sa.Column("resolved_spec", sa.LargeBinary(), nullable=False),
    )


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("job_uid", sa.Text(), primary_key=True),
        sa.Column("attempt", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("fencing_number", sa.Integer(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("host_id", sa.Text(), nullable=False),
        sa.Column("device_ids", sa.Text(), nullable=False),
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("create_time", sa.Float(), nullable=False),
        sa.Column("end_time", sa.Float()),
        sa.Column("outcome", sa.Integer(), nullable=False),
        sa.Column("acknowledged_source_sequence", sa.Integer(), nullable=False),
        sa.Column("resume_from_step", sa.Integer()),
        sa.Column("resume_from_digest", sa.Text()),
        sa.Column("resume_from_attempt", sa.Integer()),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "attempts_live",
        "attempts",
        ["job_uid"],
        unique=True,
        sqlite_where=sa.text("state != 4"),
        postgresql_where=sa.text("state != 4"),
    )


def _create_services() -> None:
    op.create_table(
        "services",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
    )


def _create_manifests() -> None:
    op.create_table(
        "manifests",
        sa.Column("digest", sa.Text(), primary_key=True),
        sa.Column("job_uid", sa.Text(), primary_key=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("manifest", sa.LargeBinary(), nullable=False),
        sa.Column("create_time", sa.Float(), nullable=False),
    )
    op.create_index("manifests_of_job", "manifests", ["job_uid", "kind", "step"])


def _create_models() -> None:
    op.create_table(
        "models",
        sa.Column("uid", sa.Text(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("manifest_digest", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("create_time", sa.Float(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("models_by_name", "models", ["name"], unique=True)
    op.create_index("models_by_project", "models", ["project", "create_time", "uid"])


def _create_deployments() -> None:
    op.create_table(
        "deployments",
        sa.Column("uid", sa.Text(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("deployment_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("spec", sa.LargeBinary(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("base_facts", sa.LargeBinary(), nullable=False),
        sa.Column("adapter_manifest_digest", sa.Text(), nullable=False),
        sa.Column("engine_model", sa.Text(), nullable=False),
        sa.Column("create_time", sa.Float(), nullable=False),
        sa.Column("update_time", sa.Float(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("host_id", sa.Text(), nullable=False),
        sa.Column("device_ids", sa.Text(), nullable=False),
        sa.Column("engine_address", sa.Text(), nullable=False),
        sa.Column("contract", sa.LargeBinary(), nullable=False),
        sa.Column("error", sa.LargeBinary(), nullable=False),
    )
    op.create_index(
        "deployments_by_name",
        "deployments",
        ["name"],
        unique=True,
        sqlite_where=sa.text("state != 6"),
        postgresql_where=sa.text("state != 6"),
    )
    op.create_index("deployments_by_project", "deployments", ["project", "create_time", "uid"])


def _create_requests() -> None:
    op.create_table(
        "requests",
        sa.Column("request_id", sa.Text(), primary_key=True),
        sa.Column("principal", sa.Text(), primary_key=True),
        sa.Column("method", sa.Text(), primary_key=True),
        sa.Column("body_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("response", sa.LargeBinary(), nullable=False),
        sa.Column("create_time", sa.Float(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("requests_by_time", "requests", ["create_time"])


def _create_event_segments() -> None:
    op.create_table(
        "event_segments",
        sa.Column("job_uid", sa.Text(), primary_key=True),
        sa.Column("first_sequence", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("last_sequence", sa.Integer(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
    )
