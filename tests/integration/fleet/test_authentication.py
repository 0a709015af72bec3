"""Every call shows a token, and each token opens only what is its own."""

from __future__ import annotations

import stat
from collections.abc import Iterator

import grpc
import grpc.aio
import pytest
from chaos_fleet import ChaosFleet
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from tunefleet.artifact.v1 import artifact_service_pb2
from tunefleet.catalog.v1 import catalog_service_pb2
from tunefleet.deployment.v1 import deployment_service_pb2
from tunefleet.fleet.v1 import fleet_service_pb2
from tunefleet.job.v1 import job_service_pb2
from tunefleet.model.v1 import model_service_pb2
from tunefleet_coordinator.security.principal import Principal, Role, principal_of_call, require_project
from tunefleet_core.errors import Reason, TunefleetError, error_from_trailing_metadata
from tunefleet_core.rpc import open_channel

_FILES: tuple[FileDescriptor, ...] = (
    artifact_service_pb2.DESCRIPTOR,
    catalog_service_pb2.DESCRIPTOR,
    deployment_service_pb2.DESCRIPTOR,
    fleet_service_pb2.DESCRIPTOR,
    job_service_pb2.DESCRIPTOR,
    model_service_pb2.DESCRIPTOR,
)
_SERVICES_ONLY = {"Attach", "ReportEvents", "ReportInspection", "CommitManifest", "RenewCertificate"}
_BOTH = {"GetManifest", "GetFleet"}

_Metadata = tuple[tuple[str, str], ...]


def _methods() -> Iterator[MethodDescriptor]:
    for file in _FILES:
        for service in file.services_by_name.values():
            # Join takes the secret of a join token instead: see `tests/integration/joining`.
            yield from (method for method in service.methods if method.name != "Join")


def _method(name: str) -> MethodDescriptor:
    return next(method for method in _methods() if method.name == name)


async def _refusal(address: str, method: MethodDescriptor, metadata: _Metadata) -> TunefleetError | None:
    """Call a method with an empty request; return why it was refused, None if it was let in."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    channel = open_channel(address)
    try:
        await _call(channel, path, method, metadata)
    except grpc.aio.AioRpcError as error:
        carried = error_from_trailing_metadata(list(error.trailing_metadata() or ()))
        if carried is None or error.code().name != carried.code:
            raise  # every refusal names its reason, and its code is the reason's
        return carried
    finally:
        await channel.close()
    return None


async def _call(channel: grpc.aio.Channel, path: str, method: MethodDescriptor, metadata: _Metadata) -> None:
    request = GetMessageClass(method.input_type)()
    codec = {
        "request_serializer": type(request).SerializeToString,
        "response_deserializer": GetMessageClass(method.output_type).FromString,
    }
    if method.client_streaming:
        # Nothing is sent: a message that crosses the refusal would show as a failed write.
        await channel.stream_stream(path, **codec)(iter(()), metadata=metadata, timeout=10).read()
    elif method.server_streaming:
        await channel.unary_stream(path, **codec)(request, metadata=metadata, timeout=10).read()
    else:
        await channel.unary_unary(path, **codec)(request, metadata=metadata, timeout=10)


async def test_every_method_refuses_a_call_without_a_good_token(fleet: ChaosFleet) -> None:
    bad: dict[str, _Metadata] = {
        "no token": (),
        "an unknown token": (("authorization", "Bearer tf_nobody"),),
        "an empty token": (("authorization", "Bearer "),),
        "another scheme": (("authorization", f"Basic {fleet.token('admin')}"),),
        "another key": (("token", fleet.token("admin")),),
        "a token with a tail": (("authorization", f"Bearer {fleet.token('admin')}x"),),
    }
    methods = list(_methods())
    assert len(methods) >= 20
    for method in methods:
        addresses = [fleet.user_address]
        if method.containing_service.name in ("FleetService", "ArtifactService"):
            addresses.append(fleet.service_address)
        for address in addresses:
            for what, metadata in bad.items():
                error = await _refusal(address, method, metadata)
                assert error is not None, f"{method.full_name} let {what} in"
                assert error.reason is Reason.TOKEN_INVALID, f"{method.full_name}, {what}: {error.reason}"
                assert error.hint


async def test_service_token_opens_no_method_of_people(fleet: ChaosFleet) -> None:
    for method in _methods():
        error = await _refusal(fleet.user_address, method, fleet.bearer("service"))
        is_denied = error is not None and error.reason is Reason.PERMISSION_DENIED
        assert is_denied is (method.name not in _SERVICES_ONLY | _BOTH), f"{method.full_name}: {error}"


async def test_admin_token_opens_no_method_of_services(fleet: ChaosFleet) -> None:
    for method in _methods():
        error = await _refusal(fleet.user_address, method, fleet.bearer("admin"))
        is_denied = error is not None and error.reason is Reason.PERMISSION_DENIED
        assert is_denied is (method.name in _SERVICES_ONLY), f"{method.full_name}: {error}"


async def test_unknown_method_is_unimplemented(fleet: ChaosFleet) -> None:
    channel = open_channel(fleet.user_address)
    try:
        call = channel.unary_unary("/tunefleet.job.v1.JobService/BurnJob")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"", metadata=fleet.bearer("admin"), timeout=10)
    finally:
        await channel.close()
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_service_listener_offers_nothing_to_people(fleet: ChaosFleet) -> None:
    channel = open_channel(fleet.service_address)
    try:
        call = channel.unary_unary("/tunefleet.job.v1.JobService/ListJobs")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            # A busy machine may take longer to answer a new connection than gRPC gives it.
            await call(b"", metadata=fleet.bearer("admin"), timeout=60, wait_for_ready=True)
    finally:
        await channel.close()
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_tokens_are_for_their_owner_alone(fleet: ChaosFleet) -> None:
    for name in ("admin", "service"):
        mode = (fleet.state / f"{name}.token").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600
    assert stat.S_IMODE(fleet.state.stat().st_mode) == 0o700
    assert fleet.token("admin") != fleet.token("service")


async def test_resource_of_another_project_is_not_reached(fleet: ChaosFleet) -> None:
    """The admin may act everywhere, so a job elsewhere is simply not there; a bad name is refused."""
    async with fleet.client() as client:
        with pytest.raises(TunefleetError) as raised:
            await client.jobs.get("projects/elsewhere/jobs/none")
        assert raised.value.reason is Reason.JOB_NOT_FOUND
    error = await _refusal(fleet.user_address, _method("GetJob"), fleet.bearer("admin"))
    assert error is not None
    assert error.reason is Reason.FIELD_INVALID


def test_principal_of_one_project_may_not_act_in_another() -> None:
    principal = Principal(name="ada", role=Role.USER, project="research")
    token = principal_of_call.set(principal)
    try:
        assert require_project("research") == principal
        with pytest.raises(TunefleetError) as raised:
            require_project("default")
    finally:
        principal_of_call.reset(token)
    assert raised.value.reason is Reason.PERMISSION_DENIED
    assert raised.value.hint
