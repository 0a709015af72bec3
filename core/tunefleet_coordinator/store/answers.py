"""Idempotency of what is changed in the store alone: the same request ids as those of the core."""

from __future__ import annotations

from sqlalchemy import Connection

from tunefleet_coordinator.store import codec, read, tables
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import Request, RequestRow

__all__ = ["answered", "remember"]


def answered(connection: Connection, request: Request | None) -> str | None:
    """Return the resource that a request was answered with, None if it is new.

    Raises:
        TunefleetError: REQUEST_ID_REUSED if the id came with other bytes.
    """
    if request is None:
        return None
    key = request.key
    known = read.one(
        connection,
        tables.requests,
        codec.request_from,
        request_id=key.request_id,
        principal=key.principal,
        method=key.method,
    )
    if known is None:
        return None
    if known.body_sha256 != request.body_sha256:
        raise TunefleetError(
            Reason.REQUEST_ID_REUSED,
            f"Request id {key.request_id} was used before with another body.",
            hint="Make a new request id for a new request.",
            metadata={"request_id": key.request_id},
        )
    return known.response.decode()


def remember(connection: Connection, request: Request | None, name: str, at: float) -> None:
    """Note what a request was answered with, in the transaction that carries it out."""
    if request is not None:
        row = RequestRow(
            request=request.key, body_sha256=request.body_sha256, response=name.encode(), create_time=at
        )
        connection.execute(tables.requests.insert().values(codec.columns_of(row)))
