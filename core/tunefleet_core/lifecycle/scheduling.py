"""Placing jobs and deployments on services.

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
from tunefleet.deployment.v1.deployment_pb2 import DeploymentSpec, DeploymentState
from tunefleet.fleet.v1.fleet_pb2 import ServiceKind
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet.type.v1.engine_pb2 import EngineSettings
from tunefleet_core.lifecycle.capacity import (
    active_backend,
    active_backends,
    parallel_devices,
    usable_devices,
)
from tunefleet_core.lifecycle.draft import Draft
from tunefleet_core.lifecycle.events import attempt_started
from tunefleet_core.lifecycle.queue import Shape, Turn, shape_of
from tunefleet_core.lifecycle.rows import (
    CPU,
    AttemptRow,
    AttemptState,
    BackendFacts,
    DeploymentRow,
    JobRow,
    ServiceRow,
)

__all__ = ["place_deployment", "schedule"]


def schedule(draft: Draft) -> None:
    """Place what can be placed after what this decision did: its last step."""
    freed = _use_freed_hosts(draft)
    for uid in list(draft.queued_jobs):
        _place_job(draft, uid, freed)


def _use_freed_hosts(draft: Draft) -> list[ServiceRow]:
    """Offer every host on which this decision freed something to those that wait; return their services."""
    if draft.freed_hosts:
        for deployment in draft.world.pending_deployments():
            place_deployment(draft, deployment.uid)
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


def place_deployment(draft: Draft, uid: str) -> bool:
    """Give a PENDING deployment to a server that can serve it. Returns whether one did.

    A server whose engine already serves the same base comes first: it needs no new device.
    """
    deployment = draft.deployment(uid)
    if deployment is None or deployment.state != DeploymentState.DEPLOYMENT_STATE_PENDING:
        return False
    servers = [service for service in draft.servers() if service.takes_work]
    for service in sorted(servers, key=lambda item: _engine_mate(draft, item, deployment) is None):
        found = _fitting_engine(draft, service, deployment)
        if found is not None:
            engine, device_ids = found
            draft.write(
                deployment,
                state=DeploymentState.DEPLOYMENT_STATE_STARTING,
                service=service.name,
                host_id=service.host_id,
                device_ids=device_ids,
                engine=engine,
                engine_address="",
                error=b"",
            )
            return True
    return False


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
    free = _free_devices(draft, service, backend)
    return None if len(free) < shape.devices_needed else free[: shape.devices_needed]


def _free_devices(draft: Draft, service: ServiceRow, backend: BackendFacts) -> tuple[str, ...]:
    return tuple(
        device.id
        for device in usable_devices(service, backend)
        if draft.is_free((service.host_id, device.id))
    )


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


def _engine_mate(draft: Draft, service: ServiceRow, deployment: DeploymentRow) -> DeploymentRow | None:
    """Return a live deployment of a service whose engine the deployment could share."""
    for other in draft.deployments_of_service(service.name):
        fits = deployment.engine in ("", other.engine) and other.base_facts == deployment.base_facts
        if other.is_live and fits and _runs_as(other) == _runs_as(deployment):
            return other
    return None


def _runs_as(deployment: DeploymentRow) -> tuple[int, EngineSettings]:
    """Return how an engine would have to run to serve a deployment."""
    spec = DeploymentSpec.FromString(deployment.spec)
    return spec.max_context_tokens, spec.engine_settings


def _fitting_engine(
    draft: Draft, service: ServiceRow, deployment: DeploymentRow
) -> tuple[str, tuple[str, ...]] | None:
    """Return (engine, devices to book) with which a server would serve a deployment, or None."""
    mate = _engine_mate(draft, service, deployment)
    if mate is not None:
        return mate.engine, mate.device_ids
    for backend in active_backends(service):
        serves = Capability.CAPABILITY_SERVE in backend.capabilities
        if not serves or deployment.engine not in ("", backend.name):
            continue
        usable = usable_devices(service, backend)
        if usable and usable[0].kind == CPU:
            return backend.name, ()  # engines share the processor and book nothing
        needed = parallel_devices(_runs_as(deployment)[1])
        free = _free_devices(draft, service, backend)
        if len(free) >= needed:
            return backend.name, free[:needed]
    return None
