"""Deployments: placed on servers, routed by gateways, moved when a server dies."""

from __future__ import annotations

from typing import Any

import pytest

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.fleet.v1.fleet_pb2 import DeploymentStatus, Service, ServiceKind
from tunefleet_core.errors import Reason
from tunefleet_core.lifecycle import (
    DeploymentDeleteRequested,
    DeploymentReported,
    DeploymentRow,
    desired_for,
    services_touched,
)
from tunefleet_core.testing import samples

NAME = "projects/default/deployments/tuned"
UID = "uid-of-tuned"


def server(name: str = "services/s", engine: str = "embedded") -> Service:
    return samples.service(
        name,
        kind=ServiceKind.SERVICE_KIND_SERVER,
        backends=[samples.backend(engine, capabilities=[Capability.CAPABILITY_SERVE])],
    )


def status(state: str, uid: str = UID) -> DeploymentStatus:
    value = DeploymentState.Value(f"DEPLOYMENT_STATE_{state}")
    address = "http://127.0.0.1:1" if state == "READY" else ""
    return DeploymentStatus(deployment_uid=uid, state=value, engine_address=address)


def report(now: float, state: str, name: str = "services/s", epoch: int = 1) -> DeploymentReported:
    return DeploymentReported(at=samples.moment(now), service=name, epoch=epoch, status=status(state))


def delete(now: float, *, allow_missing: bool = False) -> DeploymentDeleteRequested:
    return DeploymentDeleteRequested(
        at=samples.moment(now), request=None, name=NAME, allow_missing=allow_missing
    )


def word(desk: Any) -> str:
    row = desk.world.deployment(UID) or desk.durable.rows[("deployment", UID, 0)]
    return DeploymentState.Name(row.state).removeprefix("DEPLOYMENT_STATE_")


@pytest.fixture
def ready(desk: Any) -> Any:
    desk.do(samples.attached(0, server()))
    desk.do(samples.deployment(0))
    desk.do(report(1, "READY"))
    return desk


def test_a_deployment_goes_to_a_server_with_its_engine(desk: Any) -> None:
    desk.do(samples.attached(0))
    desk.do(samples.attached(0, server("services/other", "vllm")))
    accepted = desk.do(samples.deployment(0, request_id="r"))
    assert word(desk) == "PENDING"
    desk.do(samples.attached(1, server()))
    assert word(desk) == "STARTING"
    (held,) = desired_for(desk.world, "services/s").deployments
    assert (held.uid, held.version.engine) == (UID, "embedded")
    assert desired_for(desk.world, "services/other").deployments == ()
    again = desk.do(samples.deployment(2, "renamed", request_id="r"))
    assert (again.name, again.is_repetition) == (accepted.name, True)
    assert desk.refused(samples.deployment(2, uid="u2")).reason is Reason.DEPLOYMENT_EXISTS


def test_deployments_that_waited_for_one_server_share_its_engine(desk: Any) -> None:
    for name in ("one", "two"):
        desk.do(samples.deployment(0, name))
    two_gpus = {"gpu-0": "cuda", "gpu-1": "cuda"}
    described = server()
    del described.host.devices[:]
    for device_id, kind in two_gpus.items():
        described.host.devices.add(id=device_id, kind=kind)
    desk.do(samples.attached(1, described))
    rows = [desk.world.replica(f"uid-of-{name}") for name in ("one", "two")]
    assert [row.device_ids for row in rows] == [("gpu-0",), ("gpu-0",)]


def test_an_open_engine_is_the_first_that_can_serve(desk: Any) -> None:
    desk.do(samples.attached(0, server(engine="vllm")))
    desk.do(samples.deployment(0, engine=""))
    assert desk.world.deployment(UID).engine == "vllm"


def test_ready_deployments_are_routes_of_every_gateway(desk: Any) -> None:
    gateway = samples.service("services/g", kind=ServiceKind.SERVICE_KIND_GATEWAY, backends=[])
    desk.do(samples.attached(0, gateway))
    desk.do(samples.attached(0, server()))
    desk.do(samples.deployment(0))
    assert desired_for(desk.world, "services/g").routes == ()

    decision = desk.decide(report(1, "READY"))
    assert services_touched(desk.world, decision.changes) == {"services/s", "services/g"}
    desk.do(report(1, "READY"))

    (route,) = desired_for(desk.world, "services/g").routes
    assert (route.version.deployment_id, route.replica.engine_address) == ("tuned", "http://127.0.0.1:1")
    desk.do(delete(2))
    assert desired_for(desk.world, "services/g").routes == ()


def test_a_deployment_of_a_lost_server_goes_to_another(ready: Any) -> None:
    ready.do(samples.attached(10, server("services/t")))
    ready.tick(16)
    row = ready.world.deployment(UID)
    assert (word(ready), row.service, row.engine_address) == ("STARTING", "services/t", "")


def test_a_deployment_of_a_lost_server_waits_for_one(ready: Any) -> None:
    ready.tick(16)
    assert word(ready) == "PENDING"
    ready.do(samples.attached(20, server(), deployments=[status("READY")]))
    assert word(ready) == "STARTING", "what it held from before was given up"


def test_a_server_that_comes_back_without_it_starts_it_again(ready: Any) -> None:
    ready.do(samples.attached(2, server()))
    row = ready.world.deployment(UID)
    assert (word(ready), row.service, row.engine_address) == ("STARTING", "services/s", "")


def test_a_server_that_still_holds_it_keeps_it_ready(ready: Any) -> None:
    ready.do(samples.attached(2, server(), deployments=[status("READY")]))
    assert word(ready) == "READY"


def test_delete_waits_for_the_server(ready: Any) -> None:
    ready.do(delete(2))
    assert word(ready) == "STOPPING"
    assert desired_for(ready.world, "services/s").deployments == ()
    ready.do(report(3, "READY"))
    ready.tick(14)
    assert word(ready) == "STOPPING"
    ready.do(report(4, "DELETED"))
    assert word(ready) == "DELETED"
    assert ready.refused(delete(5)).reason is Reason.DEPLOYMENT_NOT_FOUND
    ready.do(delete(5, allow_missing=True))


def test_delete_of_what_no_server_holds_is_done_at_once(desk: Any) -> None:
    desk.do(samples.deployment(0))
    row = desk.do(delete(1))
    assert isinstance(row, DeploymentRow)
    assert row.is_deleted
    desk.do(samples.attached(2, server()))
    assert desired_for(desk.world, "services/s").deployments == ()


def test_delete_before_the_server_began_ends_after_a_lease_term(desk: Any) -> None:
    desk.do(samples.attached(0, server()))
    desk.do(samples.deployment(0))
    desk.do(delete(1))
    for now in (4, 8, 12, 15.9):
        desk.do(samples.heartbeat(now, "services/s"))
        desk.tick(now)
        assert word(desk) == "STOPPING"
    desk.tick(16)
    assert word(desk) == "DELETED"


@pytest.mark.parametrize("held", [True, False])
def test_delete_ends_when_the_server_comes_back_without_it_or_is_lost(ready: Any, held: bool) -> None:
    ready.do(delete(2))
    if held:
        ready.do(samples.attached(3, server()))
    else:
        ready.tick(20)
    assert word(ready) == "DELETED"


def test_a_failed_deployment_stays_until_it_is_deleted(ready: Any) -> None:
    failed = status("FAILED")
    failed.error.CopyFrom(samples.failure(Reason.NUMBERS_MISMATCH))
    ready.do(DeploymentReported(at=samples.moment(2), service="services/s", epoch=1, status=failed))
    assert word(ready) == "FAILED"
    assert b"NUMBERS_MISMATCH" in ready.world.deployment(UID).error
    assert desired_for(ready.world, "services/s").deployments == ()
    ready.do(samples.attached(3, server()))
    assert word(ready) == "FAILED"
    ready.do(delete(4))
    assert word(ready) == "DELETED"


def test_a_server_cannot_speak_for_what_is_elsewhere(ready: Any) -> None:
    ready.do(samples.attached(2, server("services/t")))
    assert ready.refused(report(3, "READY", "services/t")).reason is Reason.FENCED
    assert ready.refused(report(3, "READY", epoch=9)).reason is Reason.SESSION_SUPERSEDED
