"""Whatever is sent, the answer is an answer: never INTERNAL or UNKNOWN, never a crash or a hang."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2, status_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from messages import bytes_for

from tunefleet.artifact.v1 import artifact_service_pb2, blob_service_pb2
from tunefleet.catalog.v1 import catalog_service_pb2
from tunefleet.dataset.v1 import dataset_service_pb2
from tunefleet.deployment.v1 import deployment_service_pb2
from tunefleet.fleet.v1 import fleet_service_pb2
from tunefleet.job.v1 import job_service_pb2
from tunefleet.model.v1 import model_service_pb2
from tunefleet_core.errors import Reason, code_of

_FILES = (
    artifact_service_pb2,
    blob_service_pb2,
    catalog_service_pb2,
    dataset_service_pb2,
    deployment_service_pb2,
    fleet_service_pb2,
    job_service_pb2,
    model_service_pb2,
)
_OF_SERVICES = {"Attach", "ReportEvents", "ReportInspection", "CommitManifest"}
# Of gRPC itself, before a call reaches us: a deadline of ours, and a message beyond its limit.
_SECONDS = 20.0
_EXAMPLES = 25
_STATUS_KEY = "grpc-status-details-bin"


def _methods() -> Iterator[MethodDescriptor]:
    for file in _FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            yield from service.methods


METHODS = {f"{method.containing_service.name}.{method.name}": method for method in _methods()}


@pytest.fixture(scope="module")
def channels(fleet: Any) -> Iterator[dict[str, grpc.Channel]]:
    options = [("grpc.enable_http_proxy", 0)]
    opened = {
        name: grpc.insecure_channel(address, options=options)
        for name, address in (("user", fleet.user), ("service", fleet.service), ("blobs", fleet.blobs))
    }
    for channel in opened.values():
        grpc.channel_ready_future(channel).result(timeout=60)
    yield opened
    for channel in opened.values():
        channel.close()


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


def ask(channel: grpc.Channel, method: MethodDescriptor, bodies: list[bytes], metadata: Any) -> None:
    """Send bytes as they are; read a few answers of a stream, then leave."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    many: Any = {"metadata": metadata, "timeout": _SECONDS}
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
        assert_answered(error)


def _read_some(call: Any) -> None:
    try:
        for number, _ in enumerate(call):
            if number == 2:
                break
    finally:
        call.cancel()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(METHODS))
def test_method_answers_whatever_it_is_sent(name: str, fleet: Any, channels: dict[str, Any]) -> None:
    method = METHODS[name]
    service = method.containing_service.name
    where = "blobs" if service == "BlobService" else "service" if method.name in _OF_SERVICES else "user"
    metadata = fleet.bearer("service" if method.name in _OF_SERVICES else "admin")
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
        ask(channels[where], method, bodies, metadata)

    sent()
    fleet.assert_well()
