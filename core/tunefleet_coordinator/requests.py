"""Idempotency at the edge: what a request is, and one piece of work for equal ones in flight."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tunefleet_coordinator.security import current_principal
from tunefleet_core.errors import TunefleetError
from tunefleet_core.lifecycle import Request, RequestKey

__all__ = ["InFlight", "request_of"]

_Result = TypeVar("_Result")
_REMEMBERED = 4_096


def request_of(message: Any, method: str) -> Request | None:
    """Return the idempotency of a mutation; None if the caller gave no request id.

    Raises:
        TunefleetError: FIELD_INVALID if the id is no UUID.
    """
    request_id = str(message.request_id)
    if not request_id:
        return None
    try:
        uuid.UUID(request_id)
    except ValueError:
        raise TunefleetError.field("request_id", f"'{request_id}' is not a UUID") from None
    message.ClearField("request_id")  # not part of what is asked; set again below, cheaper than a copy
    body = message.SerializeToString(deterministic=True)
    message.request_id = request_id
    return Request(
        key=RequestKey(principal=current_principal().name, method=method, request_id=request_id),
        body_sha256=hashlib.sha256(body).digest(),
    )


class InFlight:
    """Lets equal requests that arrive while one is worked on wait for its answer."""

    def __init__(self) -> None:
        self._locks: dict[RequestKey, tuple[asyncio.Lock, int]] = {}
        self._answered: dict[RequestKey, None] = {}  # the newest last

    async def one_at_a_time(
        self, request: Request | None, work: Callable[[bool], Awaitable[_Result]]
    ) -> _Result:
        """Run `work(is_known)`, after any equal request before it.

        `is_known`: this process answered an equal request lately, so the store holds its result.
        False proves nothing: the answer may have been of a process before this one.
        """
        if request is None:
            return await work(False)
        lock, waiting = self._locks.get(request.key, (asyncio.Lock(), 0))
        self._locks[request.key] = (lock, waiting + 1)
        try:
            async with lock:
                result = await work(request.key in self._answered)
                self._remember(request.key)
                return result
        finally:
            lock, waiting = self._locks[request.key]
            if waiting == 1:
                del self._locks[request.key]
            else:
                self._locks[request.key] = (lock, waiting - 1)

    def _remember(self, key: RequestKey) -> None:
        self._answered[key] = None
        if len(self._answered) > _REMEMBERED:
            del self._answered[next(iter(self._answered))]
