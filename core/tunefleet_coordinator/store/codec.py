"""Rows to columns and back: one pair of functions per table, nothing clever."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeAlias, assert_never, cast

from sqlalchemy import Table

from tunefleet.fleet.v1.fleet_pb2 import ServiceState
from tunefleet_coordinator.store import tables
from tunefleet_core.lifecycle import (
    AttemptRow,
    AttemptState,
    Checkpoint,
    DeploymentRow,
    JobRow,
    Labels,
    ManifestRow,
    ModelRow,
    ReplicaRow,
    RequestKey,
    RequestRow,
    Row,
    ServiceRow,
    SpecRow,
    TrafficRow,
)

__all__ = [
    "Columns",
    "attempt_from",
    "columns_of",
    "deployment_from",
    "job_from",
    "label_text",
    "manifest_from",
    "model_from",
    "replica_from",
    "request_from",
    "service_from",
    "spec_from",
    "table_of",
    "traffic_from",
]

Columns: TypeAlias = Mapping[str, Any]
"""Values by column name, as the database gives them."""


def table_of(row: Row) -> Table:
    """Return the table that a row lives in."""
    match row:
        case JobRow():
            return tables.jobs
        case AttemptRow():
            return tables.attempts
        case SpecRow():
            return tables.specs
        case RequestRow():
            return tables.requests
        case ManifestRow():
            return tables.manifests
        case ServiceRow():
            return tables.services
        case ModelRow():
            return tables.models
        case DeploymentRow():
            return tables.deployments
        case ReplicaRow():
            return tables.replicas
        case TrafficRow():
            return tables.traffic
        case _:
            assert_never(row)


def columns_of(row: Row) -> dict[str, Any]:
    """Return the durable fields of a row by column."""
    match row:
        case JobRow():
            return _job_columns(row)
        case AttemptRow():
            return _attempt_columns(row)
        case RequestRow():
            return {
                "request_id": row.request.request_id,
                "principal": row.request.principal,
                "method": row.request.method,
                "body_sha256": row.body_sha256,
                "response": row.response,
                "create_time": row.create_time,
            }
        case ServiceRow():
            return {
                "name": row.name,
                "kind": row.kind,
                "version": row.version,
                "epoch": row.epoch,
                "is_draining": int(row.is_draining),
            }
        case DeploymentRow():
            return _plain_columns(row) | {"is_current": int(row.is_current)}
        case ReplicaRow():
            return _plain_columns(row) | {"device_ids": json.dumps(row.device_ids)}
        case TrafficRow():
            return _plain_columns(row) | {"is_over": int(row.is_over)}
        case _:
            return _plain_columns(row)


def _plain_columns(
    row: SpecRow | ManifestRow | ModelRow | DeploymentRow | ReplicaRow | TrafficRow,
) -> dict[str, Any]:
    volatile = row.VOLATILE if isinstance(row, ReplicaRow | TrafficRow) else frozenset[str]()
    return {item.name: getattr(row, item.name) for item in fields(row) if item.name not in volatile}


def _job_columns(row: JobRow) -> dict[str, Any]:
    return {
        "uid": row.uid,
        "name": row.name,
        "project": row.project,
        "job_id": row.job_id,
        "state": row.state,
        "version": row.version,
        "priority": row.priority,
        "queue_number": row.queue_number,
        "backend": row.backend,
        "devices_needed": row.devices_needed,
        "required_labels": _labels_text(row.required_labels),
        "max_attempts": row.max_attempts,
        "resolved_spec_digest": row.resolved_spec_digest,
        "creator": row.creator,
        "create_time": row.create_time,
        "update_time": row.update_time,
        "start_time": row.start_time,
        "end_time": row.end_time,
        "attempt": row.attempt,
        "fencing_number": row.fencing_number,
        "failures": row.failures,
        "service": row.service,
        "cancel_requested": int(row.cancel_requested),
        **_checkpoint_columns("checkpoint", row.checkpoint),
        "output_digest": row.output_digest,
        "result": row.result,
        "error": row.error,
        "progress": row.progress,
        "last_sequence": row.last_sequence,
        "next_try_time": row.next_try_time,
        "resume_requested": int(row.resume_requested),
        "labels": _labels_text(row.labels),
        "oldest_sequence": row.oldest_sequence,
        "history_bytes": row.history_bytes,
    }


def _attempt_columns(row: AttemptRow) -> dict[str, Any]:
    return {
        "job_uid": row.job_uid,
        "attempt": row.attempt,
        "fencing_number": row.fencing_number,
        "service": row.service,
        "host_id": row.host_id,
        "device_ids": json.dumps(row.device_ids),
        "backend": row.backend,
        "state": int(row.state),
        "version": row.version,
        "create_time": row.create_time,
        "end_time": row.end_time,
        "outcome": row.outcome,
        "acknowledged_source_sequence": row.acknowledged_source_sequence,
        **_checkpoint_columns("resume_from", row.resume_from),
        "is_resumable": int(row.is_resumable),
        "saves_on_request": int(row.saves_on_request),
        "checkpoint_requests": row.checkpoint_requests,
    }


def label_text(name: str, value: str) -> str:
    """Return a label as it stands in a column of labels.

    Quotes inside a JSON string are escaped, so this text occurs there as that label only.
    """
    return json.dumps([name, value])


def _labels_text(labels: Labels) -> str:
    return f"[{', '.join(label_text(name, value) for name, value in labels)}]"


def _labels_from(text: str) -> Labels:
    return tuple((name, value) for name, value in cast("list[list[str]]", json.loads(text)))


def _checkpoint_columns(prefix: str, checkpoint: Checkpoint | None) -> dict[str, Any]:
    return {
        f"{prefix}_step": None if checkpoint is None else checkpoint.step,
        f"{prefix}_digest": None if checkpoint is None else checkpoint.manifest_digest,
        f"{prefix}_attempt": None if checkpoint is None else checkpoint.attempt,
    }


def _take_checkpoint(prefix: str, values: dict[str, Any]) -> Checkpoint | None:
    step = values.pop(f"{prefix}_step")
    digest = values.pop(f"{prefix}_digest")
    attempt = values.pop(f"{prefix}_attempt")
    return None if step is None else Checkpoint(step=step, manifest_digest=digest, attempt=attempt)


def job_from(columns: Columns) -> JobRow:
    """Return a job; its volatile fields are those of a job nobody looks after yet."""
    values = dict(columns)
    values["required_labels"] = _labels_from(values["required_labels"])
    values["labels"] = _labels_from(values["labels"])
    for name in ("cancel_requested", "resume_requested"):
        values[name] = bool(values[name])
    return JobRow(checkpoint=_take_checkpoint("checkpoint", values), **values)


def attempt_from(columns: Columns) -> AttemptRow:
    """Return an attempt, without a lease."""
    values = dict(columns)
    resume_from = _take_checkpoint("resume_from", values)
    device_ids = tuple(cast("list[str]", json.loads(values.pop("device_ids"))))
    state = AttemptState(values.pop("state"))
    for name in ("is_resumable", "saves_on_request"):
        values[name] = bool(values[name])
    return AttemptRow(device_ids=device_ids, state=state, resume_from=resume_from, **values)


def service_from(columns: Columns) -> ServiceRow:
    """Return a service that has not been heard since the coordinator started."""
    values = dict(columns)
    values["is_draining"] = bool(values["is_draining"])
    return ServiceRow(state=ServiceState.SERVICE_STATE_SUSPECT, **values)


def spec_from(columns: Columns) -> SpecRow:
    """Return a spec."""
    return SpecRow(**columns)


def manifest_from(columns: Columns) -> ManifestRow:
    """Return a manifest."""
    return ManifestRow(**columns)


def model_from(columns: Columns) -> ModelRow:
    """Return a model."""
    return ModelRow(**columns)


def deployment_from(columns: Columns) -> DeploymentRow:
    """Return a version of a deployment."""
    values = dict(columns)
    values["is_current"] = bool(values["is_current"])
    return DeploymentRow(**values)


def replica_from(columns: Columns) -> ReplicaRow:
    """Return a replica; what its server and gateways said of it since is not known."""
    values = dict(columns)
    device_ids = tuple(cast("list[str]", json.loads(values.pop("device_ids"))))
    values["download"] = values["download"] or b""  # rows of before there were any have none
    return ReplicaRow(device_ids=device_ids, **values)


def traffic_from(columns: Columns) -> TrafficRow:
    """Return the traffic of a deployment; what is left of a step's time is not known yet."""
    values = dict(columns)
    values["is_over"] = bool(values["is_over"])
    return TrafficRow(**values)


def request_from(columns: Columns) -> RequestRow:
    """Return an answered request."""
    values = dict(columns)
    key = RequestKey(
        principal=values.pop("principal"),
        method=values.pop("method"),
        request_id=values.pop("request_id"),
    )
    return RequestRow(request=key, **values)
