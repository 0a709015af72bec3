"""Replicas on a desk: servers that take them, what these say of them, and where they stand then."""

from __future__ import annotations

from typing import Any

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.fleet.v1.fleet_pb2 import DeploymentStatus, Service, ServiceKind
from tunefleet_core.errors import Reason
from tunefleet_core.lifecycle import DeploymentReported, Policy, ReplicaRow, desired_for, events_of
from tunefleet_core.testing import samples

UID = "uid-of-tuned"
SECOND = f"{UID}-2"
THIRD = f"{UID}-3"


def server(name: str, host: str = "", devices: dict[str, str] | None = None) -> Service:
    return samples.service(
        f"services/{name}",
        kind=ServiceKind.SERVICE_KIND_SERVER,
        host=host or f"host-of-{name}",
        devices=devices or {"cpu-0": "cpu"},
        backends=[samples.backend("embedded", capabilities=[Capability.CAPABILITY_SERVE])],
    )


def attach(desk: Any, now: float, *servers: Service, held: tuple[DeploymentStatus, ...] = ()) -> None:
    for item in servers:
        desk.do(samples.attached(now, item, deployments=held))


def begin(desk: Any, policy: Policy) -> None:
    """Have a gateway, a server `a`, and one replica that starts there."""
    desk.policy = policy
    desk.do(samples.attached(0, samples.service("services/g", kind=ServiceKind.SERVICE_KIND_GATEWAY)))
    attach(desk, 0, server("a"))
    desk.do(samples.deployment(0))


def status(uid: str, state: str, reason: Reason = Reason.NUMBERS_MISMATCH) -> DeploymentStatus:
    value = DeploymentState.Value(f"DEPLOYMENT_STATE_{state}")
    address = f"http://{uid}" if state == "READY" else ""
    found = DeploymentStatus(deployment_uid=uid, state=value, engine_address=address)
    if state == "FAILED":
        found.error.CopyFrom(samples.failure(reason))
    return found


def say(
    desk: Any, now: float, uid: str, state: str, reason: Reason = Reason.NUMBERS_MISMATCH, service: str = ""
) -> None:
    """Have the server of a replica report on it."""
    row = desk.world.replica(uid)
    service = service or row.service
    said = status(uid, state, reason)
    said.earlier_tries = row.earlier_tries
    epoch = desk.epoch(service)
    desk.do(DeploymentReported(at=samples.moment(now), service=service, epoch=epoch, status=said))


def version(desk: Any) -> str:
    row = desk.world.deployment(UID) or desk.durable.rows[("deployment", UID, 0)]
    return DeploymentState.Name(row.state).removeprefix("DEPLOYMENT_STATE_")


def word(desk: Any, uid: str) -> str:
    row = desk.world.replica(uid) or desk.durable.rows[("replica", uid, 0)]
    return DeploymentState.Name(row.state).removeprefix("DEPLOYMENT_STATE_")


def places(desk: Any) -> dict[int, tuple[str, tuple[str, ...]]]:
    rows: list[ReplicaRow] = desk.world.replicas_of(UID)
    return {row.number: (row.service.rpartition("/")[2], row.device_ids) for row in rows}


def routes(desk: Any) -> list[str]:
    return sorted(route.uid for route in desired_for(desk.world, "services/g").routes)


def events(desk: Any) -> list[str]:
    found: list[str] = []
    for event in events_of(desk.world.traffic(UID)):
        kind = event.WhichOneof("payload")
        if kind == "state_changed":
            state = DeploymentState.Name(event.state_changed.to).removeprefix("DEPLOYMENT_STATE_")
            found.append(f"{event.replica or 'all'} {state}")
        else:
            found.append(kind)
    return found


def beat(desk: Any, now: float, *names: str) -> None:
    for name in names:
        desk.do(samples.heartbeat(now, f"services/{name}", desk.epoch(f"services/{name}")))
