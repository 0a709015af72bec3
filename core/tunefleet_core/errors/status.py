"""Errors on the wire: `google.rpc.Status` with exactly one ErrorInfo.

Written by hand rather than with grpcio-status, whose releases demand a newer
protobuf than some backend environments can take in; it is one metadata key.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.rpc import code_pb2, error_details_pb2, status_pb2

from tunefleet_core.errors.error import FieldViolation, Reason, TunefleetError

__all__ = [
    "STATUS_METADATA_KEY",
    "error_from_status",
    "error_from_trailing_metadata",
    "status_from_error",
]

STATUS_METADATA_KEY = "grpc-status-details-bin"
_DOMAIN = "tunefleet"
_HINT_KEY = "hint"


def status_from_error(error: TunefleetError) -> status_pb2.Status:
    """Return the wire form of an error."""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=error.message)
    metadata = {**error.metadata, _HINT_KEY: error.hint}
    info = error_details_pb2.ErrorInfo(reason=error.reason.value, domain=_DOMAIN, metadata=metadata)
    status.details.add().Pack(info)
    if error.violations:
        request = error_details_pb2.BadRequest()
        for violation in error.violations:
            request.field_violations.add(field=violation.field, description=violation.description)
        status.details.add().Pack(request)
    return status


def error_from_status(status: status_pb2.Status) -> TunefleetError:
    """Return the error that a wire status stands for; INTERNAL if it carries no ErrorInfo of ours."""
    info = error_details_pb2.ErrorInfo()
    request = error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.TypeName() == error_details_pb2.ErrorInfo.DESCRIPTOR.full_name:
            detail.Unpack(info)
        elif detail.TypeName() == error_details_pb2.BadRequest.DESCRIPTOR.full_name:
            detail.Unpack(request)
    if info.domain != _DOMAIN or info.reason not in Reason.__members__:
        return TunefleetError(Reason.INTERNAL, status.message or "The peer gave no reason.")
    metadata = dict(info.metadata)
    return TunefleetError(
        Reason(info.reason),
        status.message,
        hint=metadata.pop(_HINT_KEY, ""),
        metadata=metadata,
        violations=tuple(
            FieldViolation(field=item.field, description=item.description)
            for item in request.field_violations
        ),
    )


def error_from_trailing_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> TunefleetError | None:
    """Return the error carried by a call's trailing metadata, if it carries one."""
    for key, value in metadata:
        if key == STATUS_METADATA_KEY and isinstance(value, bytes):
            return error_from_status(status_pb2.Status.FromString(value))
    return None
