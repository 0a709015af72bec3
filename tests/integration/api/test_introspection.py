"""Health, reflection, and the rule that a method nobody named is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest
from chaos_fleet import ChaosFleet
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from grpc_health.v1 import health_pb2 as health_pb
from grpc_health.v1 import health_pb2_grpc as health_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tunefleet.artifact.v1 import artifact_service_pb2, blob_service_pb2
from tunefleet.backend.v1 import backend_service_pb2
from tunefleet.catalog.v1 import catalog_service_pb2
from tunefleet.dataset.v1 import dataset_service_pb2
from tunefleet.deployment.v1 import deployment_service_pb2
from tunefleet.fleet.v1 import fleet_service_pb2
from tunefleet.inference.v1 import inference_service_pb2, relay_service_pb2
from tunefleet.job.v1 import job_service_pb2
from tunefleet.model.v1 import model_service_pb2
from tunefleet_coordinator.introspection import SERVICES_OF_PEOPLE, SERVICES_OF_SERVICES, Health
from tunefleet_coordinator.security import Principal, Role
from tunefleet_coordinator.security.roles import METHOD_ROLES, OPEN, require_role
from tunefleet_core.errors import Reason, TunefleetError, error_from_trailing_metadata
from tunefleet_core.rpc import open_channel

_PROTO = Path(__file__).parents[3] / "proto" / "tunefleet"
_FILES: tuple[FileDescriptor, ...] = (
    artifact_service_pb2.DESCRIPTOR,
    backend_service_pb2.DESCRIPTOR,
    blob_service_pb2.DESCRIPTOR,
    catalog_service_pb2.DESCRIPTOR,
    dataset_service_pb2.DESCRIPTOR,
    deployment_service_pb2.DESCRIPTOR,
    fleet_service_pb2.DESCRIPTOR,
    inference_service_pb2.DESCRIPTOR,
    job_service_pb2.DESCRIPTOR,
    model_service_pb2.DESCRIPTOR,
    relay_service_pb2.DESCRIPTOR,
)
# Served by contract hosts and gateways, never by the coordinator or its blobs process.
_ELSEWHERE = {
    "tunefleet.backend.v1.BackendService",
    "tunefleet.inference.v1.InferenceService",
    "tunefleet.inference.v1.RelayService",
}


def _services() -> dict[str, ServiceDescriptor]:
    return {item.full_name: item for file in _FILES for item in file.services_by_name.values()}


def test_every_service_of_the_protos_is_looked_at() -> None:
    on_disk = {path.relative_to(_PROTO.parent).as_posix() for path in _PROTO.rglob("*_service.proto")}
    assert on_disk == {file.name for file in _FILES}


def test_every_method_has_a_role_or_is_refused_for_everybody() -> None:
    for service in _services().values():
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            is_known = path in METHOD_ROLES or path in OPEN
            assert is_known is (service.full_name not in _ELSEWHERE), path
    admin = Principal(name="admin", role=Role.ADMIN)
    for path in ("/tunefleet.inference.v1.InferenceService/Chat", "/tunefleet.job.v1.JobService/BurnJob"):
        with pytest.raises(TunefleetError) as raised:
            require_role(admin, path)
        assert raised.value.reason is Reason.PERMISSION_DENIED
    known = {
        f"/{service.full_name}/{method.name}"
        for service in _services().values()
        for method in service.methods
    }
    stale = {path for path in METHOD_ROLES if path.startswith("/tunefleet.")} - known
    assert not stale


def test_token_of_one_project_may_not_act_on_the_whole_fleet() -> None:
    bound = Principal(name="ada", role=Role.ADMIN, project="research")
    with pytest.raises(TunefleetError) as raised:
        require_role(bound, "/tunefleet.fleet.v1.FleetService/DrainService")
    assert raised.value.reason is Reason.PERMISSION_DENIED
    require_role(bound, "/tunefleet.fleet.v1.FleetService/CreateToken")


async def test_health_needs_no_token_and_watch_does(fleet: ChaosFleet) -> None:
    for address, services in (
        (fleet.user_address, SERVICES_OF_PEOPLE),
        (fleet.service_address, SERVICES_OF_SERVICES),
    ):
        async with open_channel(address) as channel:
            stub = health_grpc.HealthStub(channel)
            for service in ("", *services):
                answer = await stub.Check(health_pb.HealthCheckRequest(service=service), timeout=10)
                assert answer.status == health_pb.HealthCheckResponse.SERVING, service
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.Check(health_pb.HealthCheckRequest(service="tunefleet.Nothing"), timeout=10)
            assert raised.value.code() is grpc.StatusCode.NOT_FOUND
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.Watch(health_pb.HealthCheckRequest(), timeout=10).read()
            assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
            watch = stub.Watch(health_pb.HealthCheckRequest(), metadata=fleet.bearer("admin"), timeout=10)
            assert (await watch.read()).status == health_pb.HealthCheckResponse.SERVING
            watch.cancel()


async def test_health_says_not_serving_before_and_after(fleet: ChaosFleet) -> None:
    health = Health()
    health.know(["tunefleet.job.v1.JobService"])
    seen: list[int] = []

    async def watch(service: str) -> None:
        async for answer in health.Watch(health_pb.HealthCheckRequest(service=service), None):  # type: ignore[arg-type]
            seen.append(answer.status)

    status = health_pb.HealthCheckResponse
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch("tunefleet.job.v1.JobService"))
        for is_serving in (True, True, False):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            health.set_serving(is_serving)
        await asyncio.sleep(0.01)
        watching.cancel()
    assert seen == [status.NOT_SERVING, status.SERVING, status.NOT_SERVING]


async def test_reflection_shows_every_service_and_its_file(fleet: ChaosFleet) -> None:
    async with open_channel(fleet.user_address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest
        asked = [
            request(list_services=""),
            request(file_containing_symbol="tunefleet.job.v1.JobService"),
            request(file_containing_symbol="tunefleet.Nothing"),
        ]
        call = stub.ServerReflectionInfo(iter(asked), metadata=fleet.bearer("admin"), timeout=10)
        listed, file, nothing = [answer async for answer in call]
        names = {service.name for service in listed.list_services_response.service}
        assert names >= {*SERVICES_OF_PEOPLE, "grpc.health.v1.Health"}
        assert file.file_descriptor_response.file_descriptor_proto
        assert nothing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            # Nothing is sent: a message that crosses the refusal would show as a failed write.
            await stub.ServerReflectionInfo(iter(()), timeout=10).read()
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_bytes_that_are_no_message_are_named_so(fleet: ChaosFleet) -> None:
    async with open_channel(fleet.user_address) as channel:
        call = channel.unary_unary("/tunefleet.job.v1.JobService/GetJob")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"\xff\xff\xff", metadata=fleet.bearer("admin"), timeout=10)
        error = error_from_trailing_metadata(list(raised.value.trailing_metadata() or ()))
        assert error is not None
        assert error.reason is Reason.FIELD_INVALID
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"\xff\xff\xff", timeout=10)  # who is unknown learns nothing of the message
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_error_about_a_huge_name_still_arrives_with_its_reason(fleet: ChaosFleet) -> None:
    async with open_channel(fleet.user_address) as channel:
        call = channel.unary_unary("/tunefleet.job.v1.JobService/GetJob")
        request = job_service_pb2.GetJobRequest(name="é" * 1_000_000)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(request.SerializeToString(), metadata=fleet.bearer("admin"), timeout=10)
        error = error_from_trailing_metadata(list(raised.value.trailing_metadata() or ()))
        assert error is not None
        assert error.reason is Reason.FIELD_INVALID
