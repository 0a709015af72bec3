"""Placing what waits: jobs on trainers here, replicas of deployments by `placement`.

After every decision nothing that waits would fit anywhere. So a decision only has to look
at what it changed itself: a job that began to wait is offered to the idle services, and a
host on which something became free is offered to those that wait. Neither search grows
with the length of the queue.

Order: higher priority first, then first come first served. A job that does not fit is
passed over and keeps its turn.
"""

from __future__ import annotations

from collections.abc import Iterator

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.fleet.v1.fleet_pb2 import ServiceKind
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.lifecycle.capacity import active_backend, active_backends
from tunefleet_core.lifecycle.draft import Draft
from tunefleet_core.lifecycle.events import attempt_started
from tunefleet_core.lifecycle.placement import free_devices, place_replica
from tunefleet_core.lifecycle.queue import Shape, Turn, shape_of, turn_of
from tunefleet_core.lifecycle.rows import AttemptRow, AttemptState, JobRow, ServiceRow

__all__ = ["schedule"]


def schedule(draft: Draft) -> None:
    """Place what can be placed after what this decision did: its last step."""
    freed = _use_freed_hosts(draft)
    for uid in list(draft.queued_jobs):
        _place_job(draft, uid, freed)


def _use_freed_hosts(draft: Draft) -> list[ServiceRow]:
    """Offer every host on which this decision freed something to those that wait; return their services."""
    if draft.freed_hosts:
        for replica in draft.world.replicas_in(DeploymentState.DEPLOYMENT_STATE_PENDING):
            place_replica(draft, replica.uid)
    services = [service for host_id in draft.freed_hosts for service in draft.services_of_host(host_id)]
    for service in services:
        _fill(draft, service)
    return services


def _place_job(draft: Draft, uid: str, freed: list[ServiceRow]) -> None:
    """Give a queued job to the first idle service, by name, that fits."""
    job = draft.job(uid)
    if job is None or not job.is_queued:
        return
    shape = shape_of(job)
    names = (*draft.world.capacity.idle_trainers(job.backend), *(service.name for service in freed))
    for name in names:
        service = draft.service(name)
        devices = None if service is None else _fitting_devices(draft, service, shape)
        if service is not None and devices is not None:
            _assign(draft, job, service, devices)
            return


def _fill(draft: Draft, service: ServiceRow) -> None:
    """Assign queued jobs to one service, best turn first, until none fits."""
    while (found := _best_turn(draft, service)) is not None:
        uid, devices = found
        job = draft.job(uid)
        if job is None:
            raise RuntimeError(f"Queued job {uid} is not in the working set.")
        _assign(draft, job, service, devices)


def _best_turn(draft: Draft, service: ServiceRow) -> tuple[str, tuple[str, ...]] | None:
    if not service.takes_work or service.kind != ServiceKind.SERVICE_KIND_TRAINER:
        return None
    best: tuple[Turn, tuple[str, ...]] | None = None
    for backend in active_backends(service):
        for shape, turns in draft.world.queue.shapes(backend.name).items():
            devices = _fitting_devices(draft, service, shape)
            if devices is None:
                continue
            turn = next(_still_waiting(draft, turns, shape), None)
            if turn is not None and (best is None or turn < best[0]):
                best = turn, devices
    for uid in draft.queued_jobs:  # what began to wait in this decision has its turn as well
        job = draft.job(uid)
        if job is not None and job.is_queued and (best is None or turn_of(job) < best[0]):
            devices = _fitting_devices(draft, service, shape_of(job))
            best = best if devices is None else (turn_of(job), devices)
    return None if best is None else (best[0][2], best[1])


def _still_waiting(draft: Draft, turns: list[Turn], shape: Shape) -> Iterator[Turn]:
    for turn in turns:
        job = draft.job(turn[2])
        if job is not None and job.is_queued and job.avoid == shape.avoid:
            yield turn


def _fitting_devices(draft: Draft, service: ServiceRow, shape: Shape) -> tuple[str, ...] | None:
    """Return the devices of a service that a job of this shape would get, or None."""
    if not service.takes_work or service.kind != ServiceKind.SERVICE_KIND_TRAINER:
        return None
    if service.name == shape.avoid or not set(shape.required_labels).issubset(service.labels):
        return None
    backend = active_backend(service, shape.backend)
    if backend is None:
        return None
    free = free_devices(draft, service, backend)
    return None if len(free) < shape.devices_needed else free[: shape.devices_needed]


def _assign(draft: Draft, job: JobRow, service: ServiceRow, device_ids: tuple[str, ...]) -> None:
    backend = active_backend(service, job.backend)
    capabilities = backend.capabilities if backend is not None else frozenset[Capability.ValueType]()
    if job.state == JobState.JOB_STATE_WAITING_RETRY:
        job = draft.move(job, JobState.JOB_STATE_PENDING, "Another service is free.")
    attempt = AttemptRow(
        job_uid=job.uid,
        attempt=job.attempt + 1,
        fencing_number=job.fencing_number + 1,
        service=service.name,
        host_id=service.host_id,
        device_ids=device_ids,
        backend=job.backend,
        state=AttemptState.ASSIGNED,
        version=1,
        create_time=draft.at.wall,
        lease_expires=draft.at.now + draft.policy.lease_term_seconds,
        resume_from=job.checkpoint,
        is_resumable=Capability.CAPABILITY_CHECKPOINT_RESUME in capabilities,
        saves_on_request=Capability.CAPABILITY_CHECKPOINT_ON_REQUEST in capabilities,
    )
    draft.insert(attempt)
    draft.move(
        job,
        JobState.JOB_STATE_PREPARING,
        f"Assigned to {service.name}.",
        attempt_started(attempt),
        attempt=attempt.attempt,
        fencing_number=attempt.fencing_number,
        service=service.name,
        error=b"",
        start_time=draft.at.wall if job.start_time is None else job.start_time,
    )
