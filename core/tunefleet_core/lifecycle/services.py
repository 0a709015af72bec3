"""Rules for sessions and time: attach, heartbeats, silence, and the start of the coordinator."""

from __future__ import annotations

from typing import Any

from tunefleet.fleet.v1.fleet_pb2 import InstalledBackend, Service, ServiceState
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle.attempts import lose_attempt, report_attempt
from tunefleet_core.lifecycle.deployments import lose_replicas, report_held_replicas
from tunefleet_core.lifecycle.draft import Draft
from tunefleet_core.lifecycle.inputs import (
    Acknowledged,
    DrainRequested,
    ServiceAttached,
    ServiceChanged,
    ServiceRemoveRequested,
    SessionOpened,
)
from tunefleet_core.lifecycle.jobs import answered_name, remember
from tunefleet_core.lifecycle.replica_retries import begin_clocks, pass_replica_time
from tunefleet_core.lifecycle.rollouts import resume_baking
from tunefleet_core.lifecycle.rows import (
    AttemptRow,
    AttemptState,
    BackendFacts,
    DeviceFacts,
    JobRow,
    Key,
    ReplicaRow,
    ServiceRow,
    TrafficRow,
)

__all__ = [
    "attach_service",
    "boot",
    "change_backends",
    "current_session",
    "detach_service",
    "drain_service",
    "hear",
    "note_stopping",
    "pass_time",
    "remove_service",
]


def current_session(draft: Draft, name: str, epoch: int) -> ServiceRow:
    """Return a service if the epoch is that of its newest session.

    A session ends with the coordinator that opened it: after a restart nothing is known of the
    service but its epoch, so it has to attach again before it is heard.

    Raises:
        TunefleetError: SESSION_SUPERSEDED.
    """
    service = draft.service(name)
    if service is None or service.epoch != epoch or not service.description:
        newest = 0 if service is None else service.epoch
        raise TunefleetError(
            Reason.SESSION_SUPERSEDED,
            f"Session {epoch} of {name} is over; its newest was {newest}.",
            hint="Attach again if this is the process that should run.",
            metadata={"service": name, "session_epoch": str(epoch), "newest": str(newest)},
        )
    return service


def attach_service(draft: Draft, attached: ServiceAttached) -> SessionOpened:
    """Open a session: the newest wins; adopt what the service still rightly holds."""
    described = attached.service
    old = draft.service(described.name) or ServiceRow(
        name=described.name,
        kind=described.kind,
        version=0,
        epoch=0,
        state=ServiceState.SERVICE_STATE_UNSPECIFIED,
    )
    row = draft.write(old, kind=described.kind, epoch=old.epoch + 1, **_description(draft, described))
    # A device may be free because its holder moved hosts, or a backend may be new: look again.
    draft.freed_hosts[row.host_id] = None
    held = {(status.job_uid, status.attempt, status.fencing_number) for status in attached.attempts}
    for attempt in draft.world.attempts_of_service(row.name):
        _adopt(draft, attempt, (attempt.job_uid, attempt.attempt, attempt.fencing_number) in held)
    for status in attached.attempts:
        try:
            report_attempt(draft, row.name, status)
        except TunefleetError as error:
            if error.reason is not Reason.FENCED:
                raise
            # An old attempt is simply not in the desired set that the service gets next.
    report_held_replicas(draft, row.name, attached.deployments)
    return SessionOpened(epoch=row.epoch)


def _adopt(draft: Draft, attempt: AttemptRow, is_held: bool) -> None:
    """Renew the lease of an attempt, unless its service has lost a run that had begun."""
    began = attempt.state == AttemptState.RUNNING or attempt.acknowledged_source_sequence > 0
    if began and not is_held:
        # Starting it again under the same fencing number would number its events from 1 again.
        lose_attempt(draft, attempt, f"{attempt.service} came back without attempt {attempt.attempt}.")
        return
    draft.touch(attempt, lease_expires=draft.at.now + draft.policy.lease_term_seconds)


def detach_service(draft: Draft, name: str, epoch: int) -> None:
    """Note that a stream ended; nothing new is given to the service until it is back."""
    service = draft.service(name)
    if service is not None and service.epoch == epoch and service.is_attached:
        draft.touch(
            service,
            state=ServiceState.SERVICE_STATE_SUSPECT,
            deadline=service.last_heard + draft.policy.lease_term_seconds,
        )


def change_backends(draft: Draft, changed: ServiceChanged) -> None:
    """Take in the backends of a service as they are now."""
    service = current_session(draft, changed.service, changed.epoch)
    described = Service.FromString(service.description)
    del described.backends[:]
    described.backends.extend(changed.backends)
    draft.touch(
        service,
        backends=tuple(_backend_facts(item) for item in changed.backends),
        description=described.SerializeToString(),
    )


def note_stopping(draft: Draft, name: str, epoch: int) -> None:
    """Give nothing new to a service whose process ends; what it holds it gives back itself."""
    service = current_session(draft, name, epoch)
    if not service.is_stopping:
        draft.touch(service, is_stopping=True)


def hear(draft: Draft, name: str, epoch: int) -> None:
    """Take in a sign of life: renew the session and the lease of everything the service holds."""
    service = current_session(draft, name, epoch)
    draft.touch(
        service,
        state=ServiceState.SERVICE_STATE_ATTACHED,
        last_heard=draft.at.now,
        last_heard_time=draft.at.wall,
        deadline=draft.at.now + draft.policy.suspect_after_seconds,
    )
    expires = draft.at.now + draft.policy.lease_term_seconds
    for attempt in draft.world.attempts_of_service(name):
        draft.touch(attempt, lease_expires=expires)


def pass_time(draft: Draft, due: tuple[Key, ...]) -> None:
    """Act on rows whose deadline has come; each is looked at again, for it may have moved since."""
    for key in due:
        row = draft.row(key)
        if isinstance(row, ServiceRow):
            _fall_silent(draft, row)
        elif isinstance(row, AttemptRow):
            if row.is_live and row.lease_expires <= draft.at.now:
                lose_attempt(draft, row, f"{row.service} was silent for longer than its lease.")
        elif isinstance(row, JobRow):
            _retry(draft, row)
        elif isinstance(row, ReplicaRow):
            pass_replica_time(draft, row)
        elif isinstance(row, TrafficRow) and row.deadline is not None and row.deadline <= draft.at.now:
            draft.touch(row, deadline=None)  # what follows is found where every change is looked at


def _retry(draft: Draft, job: JobRow) -> None:
    is_due = job.not_before is not None and job.not_before <= draft.at.now
    if is_due and job.state == JobState.JOB_STATE_WAITING_RETRY:
        draft.move(job, JobState.JOB_STATE_PENDING, "The wait before the next attempt is over.")


def _fall_silent(draft: Draft, service: ServiceRow) -> None:
    if service.deadline is None or service.deadline > draft.at.now:
        return
    silent_since = service.last_heard
    lost_at = silent_since + draft.policy.lease_term_seconds
    if draft.at.now < lost_at:
        draft.touch(service, state=ServiceState.SERVICE_STATE_SUSPECT, deadline=lost_at)
        return
    draft.touch(service, state=ServiceState.SERVICE_STATE_LOST, deadline=None)
    lose_replicas(draft, service.name)


def boot(draft: Draft) -> None:
    """Start the clocks of everything that was live: its silence was the coordinator's own."""
    now, term = draft.at.now, draft.policy.lease_term_seconds
    for service in draft.world.services():
        if service.state == ServiceState.SERVICE_STATE_LOST:
            continue
        state = service.state if service.is_attached else ServiceState.SERVICE_STATE_SUSPECT
        suspect_after = draft.policy.suspect_after_seconds if service.is_attached else term
        draft.touch(service, state=state, last_heard=now, deadline=now + suspect_after)
    for attempt in draft.world.live_attempts():
        draft.touch(attempt, lease_expires=now + term)
    for job in draft.world.jobs():
        if job.state == JobState.JOB_STATE_WAITING_RETRY and job.not_before is None:
            draft.touch(job, not_before=now + _left_to_wait(draft, job))
    begin_clocks(draft)
    for traffic in draft.world.traffics():
        resume_baking(draft, traffic)


def _left_to_wait(draft: Draft, job: JobRow) -> float:
    """Return for how long a job still waits; a wall clock that was set meanwhile changes little."""
    longest = draft.policy.backoff_seconds(max(1, job.failures))
    if job.next_try_time is None:
        return longest
    return min(longest, max(0.0, job.next_try_time - draft.at.wall))


def drain_service(draft: Draft, asked: DrainRequested) -> ServiceRow:
    """Give a service nothing new, or something again; what it holds goes on either way."""
    repeated = answered_name(draft, asked.request) is not None
    service = _asked_service(draft, asked.name)
    if repeated:
        return service
    if service.is_draining != asked.is_draining:
        service = draft.write(service, is_draining=asked.is_draining)
    remember(draft, asked.request, service.name)
    return service


def remove_service(draft: Draft, asked: ServiceRemoveRequested) -> Acknowledged:
    """Forget a service that is LOST and holds nothing any more."""
    if answered_name(draft, asked.request) is not None:
        return Acknowledged()
    service = _asked_service(draft, asked.name)
    if service.state != ServiceState.SERVICE_STATE_LOST or draft.world.attempts_of_service(service.name):
        word = ServiceState.Name(service.state).removeprefix("SERVICE_STATE_")
        raise TunefleetError(
            Reason.STATE_CONFLICT,
            f"{service.name} cannot be removed while it is {word}.",
            hint="Stop its process and wait until it is LOST.",
            metadata={"service": service.name, "state": word},
        )
    draft.remove(service)
    remember(draft, asked.request, service.name)
    return Acknowledged()


def _asked_service(draft: Draft, name: str) -> ServiceRow:
    service = draft.service(name)
    if service is None:
        raise TunefleetError(
            Reason.SERVICE_NOT_FOUND,
            f"There is no service '{name}'.",
            hint="See the services there are: tunefleet fleet list",
            metadata={"service": name},
        )
    return service


def _description(draft: Draft, described: Service) -> dict[str, Any]:
    return {
        "state": ServiceState.SERVICE_STATE_ATTACHED,
        "last_heard": draft.at.now,
        "last_heard_time": draft.at.wall,
        "deadline": draft.at.now + draft.policy.suspect_after_seconds,
        "host_id": described.host.id,
        "devices": tuple(DeviceFacts(id=item.id, kind=item.kind) for item in described.host.devices),
        "backends": tuple(_backend_facts(item) for item in described.backends),
        "labels": tuple(sorted(described.labels.items())),
        "description": described.SerializeToString(deterministic=True),
        "is_stopping": described.is_stopping,
    }


def _backend_facts(installed: InstalledBackend) -> BackendFacts:
    return BackendFacts(
        name=installed.manifest.name,
        status=installed.status,
        capabilities=frozenset(installed.manifest.capabilities),
        device_kinds=tuple(installed.manifest.device_kinds),
    )
