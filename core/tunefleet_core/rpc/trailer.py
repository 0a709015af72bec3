"""An error as the trailer of a call, kept small enough to arrive.

A gRPC client drops a call whose metadata is beyond its limit (8 KiB unless it asks for more)
and tells its caller nothing of the reason. Texts that a caller sent come back in messages, so
they are cut here, on the way out, and nowhere else.
"""

from __future__ import annotations

from google.rpc import status_pb2

from tunefleet_core.errors import STATUS_METADATA_KEY, FieldViolation, TunefleetError, status_from_error

__all__ = ["trailer_of"]

_MESSAGE_BYTES = 640
_VALUE_BYTES = 256
_VALUES = 12
# As base64 this is 6 KiB; the message, percent-encoded, takes up to another 1.9.
_STATUS_BYTES = 4500


def trailer_of(error: TunefleetError) -> tuple[str, tuple[tuple[str, bytes], ...]]:
    """Return the message and the trailing metadata that carry an error.

    Texts beyond the bounds end in `…`; of many field violations the first ones are kept.
    """
    message = _cut(error.message, _MESSAGE_BYTES)
    violations = [
        FieldViolation(
            field=_cut(item.field, _VALUE_BYTES), description=_cut(item.description, _VALUE_BYTES * 2)
        )
        for item in error.violations[:100]
    ]
    status = _status(error, message, violations)
    while status.ByteSize() > _STATUS_BYTES and violations:
        del violations[len(violations) * 3 // 4 :]
        status = _status(error, message, violations)
    return message, ((STATUS_METADATA_KEY, status.SerializeToString()),)


def _status(error: TunefleetError, message: str, violations: list[FieldViolation]) -> status_pb2.Status:
    metadata = {
        _cut(key, _VALUE_BYTES): _cut(value, _VALUE_BYTES)
        for key, value in list(error.metadata.items())[:_VALUES]
    }
    bounded = TunefleetError(
        error.reason,
        message,
        hint=_cut(error.hint, _MESSAGE_BYTES),
        metadata=metadata,
        violations=violations,
    )
    return status_from_error(bounded)


def _cut(text: str, limit_bytes: int) -> str:
    encoded = text.encode(errors="replace")
    if len(encoded) <= limit_bytes:
        return encoded.decode()
    return encoded[: limit_bytes - 3].decode(errors="ignore") + "…"
