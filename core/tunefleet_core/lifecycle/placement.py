"""Placing replicas on servers: apart from one another, and on engines that run already.

Replicas of one version are spread over hosts, then over the servers of a host; no two of them share
an engine, which would serve nobody faster. Replicas of different models of one base share one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.deployment.v1.deployment_pb2 import DeploymentSpec, DeploymentState
from tunefleet.fleet.v1.fleet_pb2 import ServiceState
from tunefleet.type.v1.engine_pb2 import EngineSettings
from tunefleet_core.lifecycle.capacity import active_backends, parallel_devices, usable_devices
from tunefleet_core.lifecycle.draft import Draft
from tunefleet_core.lifecycle.replicas import settle_version
from tunefleet_core.lifecycle.rows import CPU, BackendFacts, DeploymentRow, ReplicaRow, ServiceRow

__all__ = ["free_devices", "place_replica", "place_replicas"]

_PLACED = frozenset(
    {
        DeploymentState.DEPLOYMENT_STATE_PREPARING,
        DeploymentState.DEPLOYMENT_STATE_STARTING,
        DeploymentState.DEPLOYMENT_STATE_READY,
    }
)
_PENDING = DeploymentState.DEPLOYMENT_STATE_PENDING
_MOST_NAMED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A replica to place: its version, and where the version's others are."""

    version: DeploymentRow
    replica: ReplicaRow
    others: tuple[ReplicaRow, ...]

    def rivals(self, service: ServiceRow) -> dict[tuple[str, ...], int]:
        """Return the devices of each engine that another of the version has on a server, and its number."""
        return {row.device_ids: row.number for row in self.others if row.service == service.name}


def place_replicas(draft: Draft, version_uid: str) -> None:
    """Place the replicas of a version that wait."""
    for row in draft.replicas_of(version_uid):
        place_replica(draft, row.uid)


def place_replica(draft: Draft, uid: str, *, rather_not: str = "") -> None:
    """Give a PENDING replica to a server that can serve it, or note why there is none.

    Of several servers comes first the one with the fewest of its version on the host, then on itself;
    then one whose engine already serves the same base, as it needs no new device. The one on which
    it has just failed, `rather_not`, comes last.
    """
    replica = draft.replica(uid)
    version = None if replica is None else draft.deployment(replica.version_uid)
    if replica is None or version is None or replica.state != _PENDING:
        return
    others = tuple(row for row in draft.replicas_of(version.uid) if row.state in _PLACED)
    asked = _Asked(version=version, replica=replica, others=others)
    on_host, on_server = Counter(row.host_id for row in others), Counter(row.service for row in others)

    def turn(service: ServiceRow) -> tuple[bool, int, int, bool]:
        is_new = _engine_mate(draft, service, asked) is None
        has_failed = service.name == rather_not
        return has_failed, on_host[service.host_id], on_server[service.name], is_new

    for service in sorted((item for item in draft.servers() if item.takes_work), key=turn):
        found = _fitting_engine(draft, service, asked)
        if found is not None:
            engine, device_ids = found
            draft.write(
                replica,
                state=DeploymentState.DEPLOYMENT_STATE_STARTING,
                service=service.name,
                host_id=service.host_id,
                device_ids=device_ids,
                engine_address="",
                error=b"",
                reason="",
            )
            if version.engine != engine:
                draft.write(version, engine=engine)
            settle_version(draft, version.uid)
            return
    reason = _why_nowhere(draft, asked)
    if reason != replica.reason:
        draft.write(replica, reason=reason)


def free_devices(draft: Draft, service: ServiceRow, backend: BackendFacts) -> tuple[str, ...]:
    """Return the devices that a backend could book on a service's host."""
    return tuple(
        device.id
        for device in usable_devices(service, backend)
        if draft.is_free((service.host_id, device.id))
    )


def _engine_mate(draft: Draft, service: ServiceRow, asked: _Asked) -> tuple[str, tuple[str, ...]] | None:
    """Return (engine, its devices) of a live replica of a service whose engine this one could share."""
    version, rivals = asked.version, asked.rivals(service)
    for row in draft.replicas_of_service(service.name):
        other = draft.deployment(row.version_uid)
        if other is None or not row.is_live or row.device_ids in rivals or other.uid == version.uid:
            continue
        fits = version.engine in ("", other.engine) and other.base_facts == version.base_facts
        if fits and _runs_as(other) == _runs_as(version):
            return other.engine, row.device_ids
    return None


def _runs_as(version: DeploymentRow) -> tuple[int, EngineSettings]:
    """Return how an engine would have to run to serve a version."""
    spec = DeploymentSpec.FromString(version.spec)
    return spec.max_context_tokens, spec.engine_settings


def _fitting_engine(draft: Draft, service: ServiceRow, asked: _Asked) -> tuple[str, tuple[str, ...]] | None:
    """Return (engine, devices to book) with which a server would serve a replica, or None."""
    mate = _engine_mate(draft, service, asked)
    if mate is not None:
        return mate
    rivals = asked.rivals(service)
    for backend in _serving(service, asked.version):
        if _is_on_processor(service, backend):
            if () in rivals:
                continue
            return backend.name, ()  # engines share the processor and book nothing
        needed = parallel_devices(_runs_as(asked.version)[1])
        free = free_devices(draft, service, backend)
        if len(free) >= needed:
            return backend.name, free[:needed]
    return None


def _serving(service: ServiceRow, version: DeploymentRow) -> list[BackendFacts]:
    return [
        backend
        for backend in active_backends(service)
        if Capability.CAPABILITY_SERVE in backend.capabilities and version.engine in ("", backend.name)
    ]


def _is_on_processor(service: ServiceRow, backend: BackendFacts) -> bool:
    usable = usable_devices(service, backend)
    return bool(usable) and usable[0].kind == CPU


def _why_nowhere(draft: Draft, asked: _Asked) -> str:
    """Return why a replica fits on no server, as a sentence that names them."""
    number = asked.replica.number
    present = [item for item in draft.servers() if item.state != ServiceState.SERVICE_STATE_LOST]
    if not present:
        return f"Replica {number} waits: no server service is attached."
    causes = [f"{_short(item)} {_why_not(draft, item, asked)}" for item in present[:_MOST_NAMED]]
    if len(present) > _MOST_NAMED:
        causes.append(f"{len(present) - _MOST_NAMED} more do not fit either")
    return f"Replica {number} fits on no server: {'; '.join(causes)}."


def _why_not(draft: Draft, service: ServiceRow, asked: _Asked) -> str:
    if not service.is_attached:
        return "is silent"
    if service.is_draining:
        return "is drained and gets nothing new"
    backends = _serving(service, asked.version)
    if not backends:
        return f"has no engine '{asked.version.engine}'" if asked.version.engine else "has no engine"
    backend = backends[0]
    if _is_on_processor(service, backend):
        number = asked.rivals(service).get((), 0)
        return f"has replica {number} on its processor already"
    needed = parallel_devices(_runs_as(asked.version)[1])
    free, usable = len(free_devices(draft, service, backend)), len(usable_devices(service, backend))
    return f"has {free} of {usable} devices free and {needed} {'is' if needed == 1 else 'are'} needed"


def _short(service: ServiceRow) -> str:
    return service.name.rpartition("/")[2]
