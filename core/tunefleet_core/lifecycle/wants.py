"""Which old rows a decision needs beside the working set.

The world forgets what can no longer change. A repeated request, a taken name or a cancel
of a job that has ended are still answered rightly: the shell asks here, reads the rows
that are `World.missing` from the store and recalls them before it decides.
"""

from __future__ import annotations

from collections.abc import Iterable

from tunefleet.backend.v1.run_pb2 import RunState
from tunefleet.fleet.v1.fleet_pb2 import AttemptStatus
from tunefleet_core.lifecycle.inputs import (
    AttemptReported,
    CancelRequested,
    CheckpointRequested,
    DeploymentDeleteRequested,
    DeploymentScaleRequested,
    DeploymentSubmitted,
    DrainRequested,
    HistoryTrimmed,
    Input,
    JobDeleteRequested,
    JobSubmitted,
    JobUpdateRequested,
    ManifestCommitted,
    PauseRequested,
    PromoteRequested,
    Request,
    ResumeRequested,
    RetryRequested,
    RollbackRequested,
    RolloutRequested,
    ServiceAttached,
    ServiceRemoveRequested,
)
from tunefleet_core.lifecycle.rows import Key

__all__ = ["wanted_keys"]


def wanted_keys(event: Input) -> list[Key]:
    """Return the keys of rows that may decide an input; ("name", full name, 0) is a job or model."""
    match event:
        case JobSubmitted():
            names = (event.name, event.model_name)
            return [*(("name", name, 0) for name in names), *_request_key(event.request)]
        case (
            CancelRequested()
            | PauseRequested()
            | CheckpointRequested()
            | ResumeRequested()
            | RetryRequested()
            | JobUpdateRequested()
            | JobDeleteRequested()
        ):
            return [("name", event.name, 0), *_request_key(event.request)]
        case RolloutRequested():
            job: list[Key] = [("name", event.evaluate_job, 0)] if event.evaluate_job else []
            return [*job, *_request_key(event.request)]
        case (
            DeploymentSubmitted()
            | DeploymentDeleteRequested()
            | DeploymentScaleRequested()
            | PromoteRequested()
            | RollbackRequested()
            | DrainRequested()
            | ServiceRemoveRequested()
        ):
            return _request_key(event.request)
        case HistoryTrimmed():
            return [("job", event.job_uid, 0)]
        case ManifestCommitted():
            return [("manifest", event.digest, event.job_uid)]
        case AttemptReported():
            return _output_keys([event.status])
        case ServiceAttached():
            return _output_keys(event.attempts)
        case _:
            return []


def _request_key(request: Request | None) -> list[Key]:
    return [] if request is None else [request.key.key]


def _output_keys(statuses: Iterable[AttemptStatus]) -> list[Key]:
    return [
        ("manifest", status.output_manifest_digest, status.job_uid)
        for status in statuses
        if status.state == RunState.RUN_STATE_ENDED and status.output_manifest_digest
    ]
