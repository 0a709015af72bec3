"""Whatever is sent, the answer is an answer: never INTERNAL or UNKNOWN, never a crash or a hang."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2, status_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from fuzzed_fleet import channel_to
from messages import bytes_for, take_as_right

import tunefleet
from tunefleet.fleet.v1.fleet_pb2 import ServiceKind
from tunefleet.fleet.v1.fleet_service_pb2 import (
    CreateJoinTokenRequest,
    CreateJoinTokenResponse,
    JoinRequest,
    JoinResponse,
)
from tunefleet.fleet.v1.fleet_service_pb2_grpc import FleetServiceStub
from tunefleet_core.errors import Reason, code_of
from tunefleet_core.rpc import ChannelTls

# Of gRPC itself, before a call reaches us: a deadline of ours, and a message beyond its limit.
_SECONDS = 20.0
_EXAMPLES = 25
# A stream that says nothing until there is something to say; one that is taken ends by our deadline.
_WAITING = {"Listen"}
_WAITING_SECONDS = 0.3
# Of what is drawn for these, something is right: else only what looks at them first would be tested.
_TAKEN = {
    "FleetService.CreateJoinToken",
    "FleetService.Join",
    "FleetService.ListJoinTokens",
    "FleetService.RenewCertificate",
    "BackendService.StartRun",
    "JobService.CreateJob",
    "RelayService.Listen",
}
_STATUS_KEY = "grpc-status-details-bin"
# The doors that a method is asked at, with the credentials of each: `member` with a certificate.
_DOORS = {
    "BackendService": ("backend",),
    "BlobService": ("blobs",),
    "InferenceService": ("inference",),
    "RelayService": ("relay",),
    "Attach": ("service", "member"),
    "CommitManifest": ("service", "member"),
    "ReportEvents": ("service", "member"),
    "ReportInspection": ("service", "member"),
    "RenewCertificate": ("service", "member"),
}


def _methods() -> Iterator[MethodDescriptor]:
    for found in pkgutil.walk_packages(tunefleet.__path__, "tunefleet."):
        if found.name.endswith("_service_pb2"):
            file = importlib.import_module(found.name)
            for service in file.DESCRIPTOR.services_by_name.values():
                yield from service.methods


METHODS = {f"{method.containing_service.name}.{method.name}": method for method in _methods()}


@pytest.fixture(scope="module")
def channels(fleet: Any) -> Iterator[dict[str, grpc.Channel]]:
    tls = ChannelTls(authority=fleet.authority)
    with channel_to(fleet.user, tls) as user:
        member = _join(user, fleet.bearer("admin"), _certificate_requests()[0])
    opened = {
        "user": channel_to(fleet.user, tls),
        "service": channel_to(fleet.service),
        "blobs": channel_to(fleet.blobs, tls),
        "inference": channel_to(fleet.inference, tls),
        "member": channel_to(fleet.member, member),
        "relay": channel_to(fleet.relay, member),
        "backend": channel_to(fleet.backend),
    }
    for channel in opened.values():
        grpc.channel_ready_future(channel).result(timeout=60)
    yield opened
    for channel in opened.values():
        channel.close()


def _join(user: grpc.Channel, admin: Any, right_request: tuple[Any, str]) -> ChannelTls:
    """Join as a server, and leave a token with which much of what is drawn joins too."""
    stub = FleetServiceStub(user)
    kind = ServiceKind.SERVICE_KIND_SERVER
    made: CreateJoinTokenResponse = stub.CreateJoinToken(
        CreateJoinTokenRequest(kind=kind, uses=1000), metadata=admin, timeout=_SECONDS
    )
    key, text = right_request
    asked = JoinRequest(
        secret=made.secret,
        service="services/fuzz",
        kind=kind,
        certificate_request=text,
    )
    requests = tuple(text for _, text in _certificate_requests())
    take_as_right(asked, secret=(made.secret,), certificate_request=requests)
    joined: JoinResponse = stub.Join(asked, timeout=_SECONDS)
    return ChannelTls(
        authority=joined.authority.encode(),
        certificate=joined.certificate.encode(),
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


@functools.cache
def _certificate_requests() -> list[tuple[Any, str]]:
    """Return keys and their requests: two that are right, of other kinds of keys, and a spoilt one."""
    keys: list[Any] = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    keys += [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()]
    keys.append(rsa.generate_private_key(public_exponent=65537, key_size=1024))
    requests: list[tuple[Any, str]] = []
    for key in keys:
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        hashed = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        signed = builder.sign(key, hashed).public_bytes(serialization.Encoding.PEM).decode()
        requests.append((key, signed))
    key, text = requests[0]
    lines = text.splitlines()
    return [*requests, (key, "\n".join([*lines[:-2], lines[-2][::-1], lines[-1]]))]


def assert_answered(error: grpc.RpcError) -> None:
    """Assert that an error carries exactly one ErrorInfo with a reason of ours and its code."""
    call: Any = error
    trailing = dict(call.trailing_metadata() or ())
    assert _STATUS_KEY in trailing, f"{call.code()} without a reason: {call.details()[:500]}"
    status = status_pb2.Status.FromString(trailing[_STATUS_KEY])
    infos = [item for item in status.details if item.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(infos) == 1
    info = error_details_pb2.ErrorInfo()
    infos[0].Unpack(info)
    assert info.domain == "tunefleet"
    assert info.reason in Reason.__members__
    assert info.reason != Reason.INTERNAL, call.details()
    assert call.code().name == code_of(Reason(info.reason))
    assert call.code() not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


def ask(
    channel: grpc.Channel,
    method: MethodDescriptor,
    bodies: list[bytes],
    metadata: Any,
    *,
    is_checked: bool = True,
) -> bool:
    """Send bytes as they are; read a few answers of a stream, then leave. Return whether it was taken."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    waits = method.name in _WAITING
    many: Any = {"metadata": metadata, "timeout": _WAITING_SECONDS if waits else _SECONDS}
    try:
        if method.client_streaming and method.server_streaming:
            _read_some(channel.stream_stream(path)(iter(bodies), **many))
        elif method.client_streaming:
            channel.stream_unary(path)(iter(bodies), **many)
        elif method.server_streaming:
            _read_some(channel.unary_stream(path)(bodies[0], **many))
        else:
            channel.unary_unary(path)(bodies[0], **many)
    except grpc.RpcError as error:
        if not is_checked:
            raise
        call: Any = error
        if waits and call.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            return True
        assert_answered(error)
        return False
    return True


def _read_some(call: Any) -> None:
    try:
        for number, _ in enumerate(call):
            if number == 2:
                break
    finally:
        call.cancel()


def doors_of(method: MethodDescriptor) -> tuple[str, ...]:
    """Return where a method is asked."""
    return _DOORS.get(method.containing_service.name) or _DOORS.get(method.name, ("user",))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "door"), [(name, door) for name in sorted(METHODS) for door in doors_of(METHODS[name])]
)
def test_method_answers_whatever_it_is_sent(
    name: str, door: str, fleet: Any, channels: dict[str, Any]
) -> None:
    method = METHODS[name]
    credentials = {"member": (), "relay": (), "backend": (), "service": fleet.bearer("service")}
    metadata = credentials.get(door, fleet.bearer("admin"))
    body = bytes_for(method.input_type)
    most = 3 if method.client_streaming else 1

    @settings(
        max_examples=_EXAMPLES,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )
    @given(st.lists(body, min_size=1, max_size=most))
    def sent(bodies: list[bytes]) -> None:
        taken.append(ask(channels[door], method, bodies, metadata))

    taken: list[bool] = []
    sent()
    if name in _TAKEN and door != "service":
        assert any(taken)
    fleet.assert_well()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_is_there_where_it_is_asked(name: str, fleet: Any, channels: dict[str, Any]) -> None:
    """Else nothing is told by its refusals."""
    method = METHODS[name]
    for door in doors_of(method):
        credentials = {"member": (), "relay": (), "backend": (), "service": fleet.bearer("service")}
        try:
            ask(channels[door], method, [b""], credentials.get(door, fleet.bearer("admin")), is_checked=False)
        except grpc.RpcError as error:
            call: Any = error
            assert call.code() not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE)
            assert not (
                call.code() == grpc.StatusCode.UNIMPLEMENTED and "not found" in call.details().lower()
            )
