"""The tables. One per row class of `tunefleet_core.lifecycle.rows`, and the event segments.

Only durable fields have columns. Labels and device ids are JSON text, wire messages are
their bytes. What holds for the migrations is tested: they must make exactly this.
"""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

__all__ = [
    "attempts",
    "deployments",
    "event_segments",
    "jobs",
    "manifests",
    "metadata",
    "models",
    "replicas",
    "requests",
    "services",
    "specs",
    "traffic",
]

metadata = MetaData()

_NOT_TERMINAL = text("state NOT IN (8, 9, 10)")  # SUCCEEDED, FAILED, CANCELLED
_NOT_ENDED = text("state != 4")
_NOT_DELETED = text("state != 6")
_NOT_OVER = text("is_over = 0")

jobs = Table(
    "jobs",
    metadata,
    Column("uid", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("job_id", Text, nullable=False),
    Column("state", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("queue_number", Integer, nullable=False),
    Column("backend", Text, nullable=False),
    Column("devices_needed", Integer, nullable=False),
    Column("required_labels", Text, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("resolved_spec_digest", Text, nullable=False),
    Column("creator", Text, nullable=False),
    Column("create_time", Float, nullable=False),
    Column("update_time", Float, nullable=False),
    Column("start_time", Float),
    Column("end_time", Float),
    Column("attempt", Integer, nullable=False),
    Column("fencing_number", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("service", Text, nullable=False),
    Column("cancel_requested", Integer, nullable=False),
    Column("checkpoint_step", Integer),
    Column("checkpoint_digest", Text),
    Column("checkpoint_attempt", Integer),
    Column("output_digest", Text, nullable=False),
    Column("result", LargeBinary, nullable=False),
    Column("error", LargeBinary, nullable=False),
    Column("progress", LargeBinary, nullable=False),
    Column("last_sequence", Integer, nullable=False),
    Column("next_try_time", Float),
    Column("resume_requested", Integer, nullable=False, server_default="0"),
    Column("labels", Text, nullable=False, server_default="[]"),
    Column("oldest_sequence", Integer, nullable=False, server_default="1"),
    Column("history_bytes", Integer, nullable=False, server_default="0"),
    Index("jobs_by_name", "name", unique=True),
    Index("jobs_by_project", "project", "queue_number"),
    # Partial: a start of the coordinator reads only what is not over, however many jobs there were.
    Index("jobs_not_terminal", "uid", sqlite_where=_NOT_TERMINAL, postgresql_where=_NOT_TERMINAL),
    Index("jobs_by_queue_number", "queue_number"),
    sqlite_with_rowid=False,
)

specs = Table(
    "specs",
    metadata,
    Column("job_uid", Text, primary_key=True),
    Column("spec", LargeBinary, nullable=False),
    Column("resolved_spec", LargeBinary, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_uid", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("fencing_number", Integer, nullable=False),
    Column("service", Text, nullable=False),
    Column("host_id", Text, nullable=False),
    Column("device_ids", Text, nullable=False),
    Column("backend", Text, nullable=False),
    Column("state", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("create_time", Float, nullable=False),
    Column("end_time", Float),
    Column("outcome", Integer, nullable=False),
    Column("acknowledged_source_sequence", Integer, nullable=False),
    Column("resume_from_step", Integer),
    Column("resume_from_digest", Text),
    Column("resume_from_attempt", Integer),
    Column("is_resumable", Integer, nullable=False, server_default="1"),
    Column("saves_on_request", Integer, nullable=False, server_default="0"),
    Column("checkpoint_requests", Integer, nullable=False, server_default="0"),
    # The database itself refuses a second live attempt of a job.
    Index(
        "attempts_live",
        "job_uid",
        unique=True,
        sqlite_where=_NOT_ENDED,
        postgresql_where=_NOT_ENDED,
    ),
    sqlite_with_rowid=False,
)

services = Table(
    "services",
    metadata,
    Column("name", Text, primary_key=True),
    Column("kind", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("is_draining", Integer, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
)

manifests = Table(
    "manifests",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("job_uid", Text, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("kind", Integer, nullable=False),
    Column("step", Integer, nullable=False),
    Column("manifest", LargeBinary, nullable=False),
    Column("create_time", Float, nullable=False),
    Index("manifests_of_job", "job_uid", "kind", "step"),
)

models = Table(
    "models",
    metadata,
    Column("uid", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("manifest_digest", Text, nullable=False),
    Column("base_model", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("create_time", Float, nullable=False),
    Index("models_by_name", "name", unique=True),
    Index("models_by_project", "project", "create_time", "uid"),
    sqlite_with_rowid=False,
)

deployments = Table(
    "deployments",
    metadata,
    Column("uid", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("deployment_id", Text, nullable=False),
    Column("state", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("spec", LargeBinary, nullable=False),
    Column("engine", Text, nullable=False),
    Column("base_facts", LargeBinary, nullable=False),
    Column("adapter_manifest_digest", Text, nullable=False),
    Column("engine_model", Text, nullable=False),
    Column("create_time", Float, nullable=False),
    Column("update_time", Float, nullable=False),
    Column("service", Text, nullable=False),
    Column("engine_address", Text, nullable=False),
    Column("contract", LargeBinary, nullable=False),
    Column("error", LargeBinary, nullable=False),
    Column("number", Integer, nullable=False, server_default="1"),
    Column("of", Text, nullable=False, server_default=""),
    Column("is_current", Integer, nullable=False, server_default="1"),
    Column("replicas", Integer, nullable=False, server_default="1"),
    Column("last_replica", Integer, nullable=False, server_default="1"),
    # The versions of a deployment share its name, which is free again once all of them are gone.
    Index(
        "deployments_by_name",
        "name",
        "number",
        unique=True,
        sqlite_where=_NOT_DELETED,
        postgresql_where=_NOT_DELETED,
    ),
    Index("deployments_by_project", "project", "create_time", "uid"),
)

replicas = Table(
    "replicas",
    metadata,
    Column("uid", Text, primary_key=True),
    Column("version_uid", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("service", Text, nullable=False),
    Column("host_id", Text, nullable=False),
    Column("device_ids", Text, nullable=False),
    Column("engine_address", Text, nullable=False),
    Column("contract", LargeBinary, nullable=False),
    Column("error", LargeBinary, nullable=False),
    Column("reason", Text, nullable=False),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("earlier_tries", Integer, nullable=False, server_default="0"),
    Column("due_time", Float),
    Column("download", LargeBinary),
    Index("replicas_by_version", "version_uid", "number", unique=True),
    Index("replicas_not_deleted", "uid", sqlite_where=_NOT_DELETED, postgresql_where=_NOT_DELETED),
    sqlite_with_rowid=False,
)

traffic = Table(
    "traffic",
    metadata,
    Column("uid", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("is_over", Integer, nullable=False),
    Column("last_number", Integer, nullable=False),
    Column("state", Integer, nullable=False),
    Column("policy", LargeBinary, nullable=False),
    Column("current", Text, nullable=False),
    Column("candidate", Text, nullable=False),
    Column("step", Integer, nullable=False),
    Column("step_time", Float, nullable=False),
    Column("start_time", Float, nullable=False),
    Column("end_time", Float),
    Column("reason", Text, nullable=False),
    Column("evaluate_uid", Text, nullable=False),
    Column("evaluation", Integer, nullable=False),
    Column("current_counts", LargeBinary, nullable=False),
    Column("candidate_counts", LargeBinary, nullable=False),
    Column("last_sequence", Integer, nullable=False),
    Column("history", LargeBinary, nullable=False),
    Index("traffic_not_over", "uid", sqlite_where=_NOT_OVER, postgresql_where=_NOT_OVER),
    sqlite_with_rowid=False,
)

requests = Table(
    "requests",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("principal", Text, primary_key=True),
    Column("method", Text, primary_key=True),
    Column("body_sha256", LargeBinary, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("create_time", Float, nullable=False),
    Index("requests_by_time", "create_time"),
    sqlite_with_rowid=False,
)

event_segments = Table(
    "event_segments",
    metadata,
    Column("job_uid", Text, primary_key=True),
    Column("first_sequence", Integer, primary_key=True, autoincrement=False),
    Column("last_sequence", Integer, nullable=False),
    Column("payload", LargeBinary, nullable=False),
)
