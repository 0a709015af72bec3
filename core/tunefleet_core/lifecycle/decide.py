"""The one entry: what follows from an input, given the world."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from tunefleet_core.errors import TunefleetError
from tunefleet_core.lifecycle.attempts import commit_manifest, report_attempt, report_events
from tunefleet_core.lifecycle.changes import Decision
from tunefleet_core.lifecycle.deployment_history import record_states
from tunefleet_core.lifecycle.deployments import (
    delete_deployment,
    report_replica,
    scale_deployment,
    submit_deployment,
)
from tunefleet_core.lifecycle.draft import Draft
from tunefleet_core.lifecycle.draining import end_drains
from tunefleet_core.lifecycle.inputs import (
    Accepted,
    Acknowledged,
    AttemptReported,
    Booted,
    CancelRequested,
    CheckpointRequested,
    DeploymentDeleteRequested,
    DeploymentReported,
    DeploymentScaleRequested,
    DeploymentSubmitted,
    DrainRequested,
    EventsReported,
    HeartbeatReceived,
    HistoryTrimmed,
    Input,
    JobDeleteRequested,
    JobSubmitted,
    JobUpdateRequested,
    ManifestCommitted,
    PauseRequested,
    PromoteRequested,
    Response,
    ResumeRequested,
    RetryRequested,
    RollbackRequested,
    RolloutRequested,
    ServiceAttached,
    ServiceChanged,
    ServiceDetached,
    ServiceRemoveRequested,
    ServiceStopping,
    Tick,
    TrafficReported,
)
from tunefleet_core.lifecycle.jobs import cancel_job, delete_job, submit_job, trim_history, update_job
from tunefleet_core.lifecycle.pausing import checkpoint_job, pause_job, resume_job, retry_job
from tunefleet_core.lifecycle.policy import Policy
from tunefleet_core.lifecycle.replicas import settle_versions
from tunefleet_core.lifecycle.rollouts import drive_rollouts, promote, roll_back, roll_out, take_traffic
from tunefleet_core.lifecycle.rows import DeploymentRow, JobRow, ServiceRow
from tunefleet_core.lifecycle.scheduling import schedule
from tunefleet_core.lifecycle.services import (
    attach_service,
    boot,
    change_backends,
    current_session,
    detach_service,
    drain_service,
    hear,
    note_stopping,
    pass_time,
    remove_service,
)
from tunefleet_core.lifecycle.world import World

__all__ = ["decide"]


def decide(world: World, event: Input, policy: Policy) -> Decision:
    """Return what follows from an input. A pure function: the world is not changed.

    The caller applies the changes (`World.apply`), makes them durable, and only then
    answers or lets anyone see them.

    Example:
        decision = decide(world, HeartbeatReceived(at=moment, service="services/a", epoch=3), Policy())
        if decision.error is None:
            world.apply(decision.changes)
    """
    draft = Draft(world, event.at, policy)
    try:
        response = _respond(draft, event)
        settle_versions(draft)
        record_states(draft)
        drive_rollouts(draft)
        end_drains(draft)
        schedule(draft)
        settle_versions(draft)
        record_states(draft)
        response = _as_scheduled(draft, response)
    except TunefleetError as error:
        return Decision(error=error)
    return Decision(changes=draft.changes(), response=response)


def _respond(draft: Draft, event: Input) -> Response:
    match event:
        case JobSubmitted():
            return submit_job(draft, event)
        case CancelRequested():
            return cancel_job(draft, event)
        case (
            PauseRequested()
            | CheckpointRequested()
            | ResumeRequested()
            | RetryRequested()
            | JobUpdateRequested()
            | JobDeleteRequested()
            | DrainRequested()
            | ServiceRemoveRequested()
        ):
            return _carry_out(draft, event)
        case EventsReported():
            return report_events(draft, event)
        case ManifestCommitted():
            return commit_manifest(draft, event)
        case ServiceAttached():
            return attach_service(draft, event)
        case DeploymentSubmitted():
            return submit_deployment(draft, event)
        case DeploymentDeleteRequested():
            return delete_deployment(draft, event)
        case DeploymentScaleRequested():
            return scale_deployment(draft, event)
        case RolloutRequested():
            return roll_out(draft, event)
        case PromoteRequested():
            return promote(draft, event)
        case RollbackRequested():
            return roll_back(draft, event)
        case _:
            _take_in(draft, event)
            return Acknowledged()


def _carry_out(
    draft: Draft,
    event: PauseRequested
    | CheckpointRequested
    | ResumeRequested
    | RetryRequested
    | JobUpdateRequested
    | JobDeleteRequested
    | DrainRequested
    | ServiceRemoveRequested,
) -> Response:
    match event:
        case PauseRequested():
            return pause_job(draft, event)
        case CheckpointRequested():
            return checkpoint_job(draft, event)
        case ResumeRequested():
            return resume_job(draft, event)
        case RetryRequested():
            return retry_job(draft, event)
        case JobUpdateRequested():
            return update_job(draft, event)
        case JobDeleteRequested():
            return delete_job(draft, event)
        case DrainRequested():
            return drain_service(draft, event)
        case ServiceRemoveRequested():
            return remove_service(draft, event)


def _as_scheduled(draft: Draft, response: Response) -> Response:
    """Return a response with its row as the whole decision left it."""
    if isinstance(response, Accepted) and response.row is not None:
        row = draft.row(response.row.key)
        return replace(response, row=row) if isinstance(row, JobRow | DeploymentRow) else response
    if isinstance(response, JobRow | DeploymentRow | ServiceRow):
        row = draft.row(response.key)
        return row if isinstance(row, JobRow | DeploymentRow | ServiceRow) else response
    return response


def _take_in(
    draft: Draft,
    event: ServiceDetached
    | ServiceChanged
    | ServiceStopping
    | HeartbeatReceived
    | AttemptReported
    | DeploymentReported
    | TrafficReported
    | HistoryTrimmed
    | Tick
    | Booted,
) -> None:
    match event:
        case HeartbeatReceived():
            hear(draft, event.service, event.epoch)
        case AttemptReported():
            current_session(draft, event.service, event.epoch)
            report_attempt(draft, event.service, event.status)
        case DeploymentReported():
            current_session(draft, event.service, event.epoch)
            report_replica(draft, event.service, event.status)
        case TrafficReported():
            current_session(draft, event.service, event.epoch)
            take_traffic(draft, event)
        case ServiceChanged():
            change_backends(draft, event)
        case ServiceStopping():
            note_stopping(draft, event.service, event.epoch)
        case ServiceDetached():
            detach_service(draft, event.service, event.epoch)
        case HistoryTrimmed():
            trim_history(draft, event)
        case Tick():
            pass_time(draft, event.due)
        case Booted():
            boot(draft)
        case _:
            assert_never(event)
