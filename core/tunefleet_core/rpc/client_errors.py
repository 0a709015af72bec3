"""The one place where a failed call becomes a typed error, for every kind of caller."""

from __future__ import annotations

import grpc
import grpc.aio

from tunefleet_core.errors import Reason, TunefleetError, error_from_trailing_metadata

__all__ = ["error_from_rpc", "is_worth_repeating"]

_CUT = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)


def error_from_rpc(error: grpc.aio.AioRpcError, peer: str) -> TunefleetError:
    """Return what a failed call means: the peer's own reason, else one made from the code.

    Args:
        error: The failure as gRPC raised it.
        peer: The other side for people, such as `The coordinator at 127.0.0.1:7460`.
    """
    carried = error_from_trailing_metadata(_trailing(error))
    if carried is not None:
        return carried
    details = error.details() or ""
    metadata = {"peer": peer, "code": error.code().name}
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            return TunefleetError(
                Reason.UNAVAILABLE,
                f"{peer} does not answer.",
                hint="tunefleet up, or tunefleet doctor",
                metadata=metadata,
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return TunefleetError(
                Reason.TIME_LIMIT,
                f"{peer} did not answer in time.",
                hint="Try again; tunefleet doctor says what is slow.",
                metadata=metadata,
            )
        case grpc.StatusCode.UNAUTHENTICATED:
            return TunefleetError(
                Reason.TOKEN_INVALID,
                details or f"{peer} does not know this token.",
                hint="Use the token that tunefleet up wrote (TUNEFLEET_TOKEN, or the state folder).",
                metadata=metadata,
            )
        case grpc.StatusCode.UNIMPLEMENTED:
            return TunefleetError(
                Reason.CAPABILITY_UNSUPPORTED,
                f"{peer} does not know this call.",
                hint="Upgrade that side; tunefleet doctor compares the versions.",
                metadata=metadata,
            )
        case code:
            return TunefleetError(
                Reason.INTERNAL,
                f"{peer} failed with {code.name}: {details or 'no details'}.",
                hint="See the log of that process.",
                metadata=metadata,
            )


def is_worth_repeating(error: grpc.aio.AioRpcError) -> bool:
    """Return whether a stream that ended so was cut, not refused.

    A reason of ours is an answer, and only UNAVAILABLE invites another try.
    Without one, these codes mean that the connection or the server went away,
    or that the server dropped a slow reader.
    """
    carried = error_from_trailing_metadata(_trailing(error))
    if carried is not None and carried.reason is not Reason.INTERNAL:
        return carried.code == "UNAVAILABLE"
    if error.code() is grpc.StatusCode.INTERNAL:
        return "RST_STREAM" in (error.details() or "")
    return error.code() in _CUT


def _trailing(error: grpc.aio.AioRpcError) -> list[tuple[str, str | bytes]]:
    return [(str(key), value) for key, value in error.trailing_metadata() or ()]
