"""Services of other machines: each has a certificate of its own, which says who calls.

The connection has checked that the certificate is of the fleet's authority. What counts is that its
digest is in the store: one that was revoked, or that nobody here has given out, is refused.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from tunefleet_coordinator.security.interceptor import rewrap
from tunefleet_coordinator.security.open_streams import OpenStreams, TokenLookup
from tunefleet_coordinator.security.principal import Principal, Role, principal_of_call
from tunefleet_coordinator.security.roles import require_role
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import peer_certificate

__all__ = ["MemberBook", "MemberInterceptor", "member"]

# The shapes of grpc.aio handlers are not expressible in its own type stubs.
_Handler = Any
_Context = Any


def member(*, service: str, kind: int, expire_time: float) -> Principal:
    """Return who a service of another machine is."""
    return Principal(name=service, role=Role.SERVICE, expire_time=expire_time, service=service, kind=kind)


class MemberBook:
    """Digest of a certificate to its principal, in memory. Kept equal to the store by whoever changes it."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._members: dict[str, Principal] = {}
        self._clock = clock

    def find(self, token: str) -> Principal | None:
        """Return whose certificate has a digest; None if it is unknown, revoked or past its time."""
        principal = self._members.get(token)
        return principal if principal is not None and principal.is_known_at(self._clock()) else None

    def add(self, sha256: str, principal: Principal) -> None:
        """Know a certificate from now on."""
        self._members[sha256] = principal

    def remove(self, service: str) -> None:
        """Know the certificates of a service no more."""
        for sha256 in [sha256 for sha256, item in self._members.items() if item.service == service]:
            self._members.pop(sha256, None)

    def has(self, service: str) -> bool:
        """Return whether a service of another machine has the name."""
        return any(item.service == service for _, item in self.living())

    def living(self) -> list[tuple[str, Principal]]:
        """Return digest and principal of every certificate whose time is not over, by digest."""
        now = self._clock()
        return sorted(
            ((sha256, item) for sha256, item in list(self._members.items()) if item.is_known_at(now)),
            key=lambda found: found[0],
        )


class MemberInterceptor(grpc.aio.ServerInterceptor):
    """Sets the principal of a call from the certificate of its connection, or ends the call.

    Args:
        members: Whose certificate has this digest.
        is_ready: Until it is true, calls are answered UNAVAILABLE.
    """

    def __init__(self, members: TokenLookup, is_ready: Callable[[], bool] = lambda: True) -> None:
        self._members = members
        self._is_ready = is_ready
        self._streams = OpenStreams(members, _unknown)
        self._wrapped: dict[str, tuple[_Handler, _Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Return a handler that looks at who calls before anything else."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        inner, wrapped = self._wrapped.get(method, (None, None))
        if inner is not handler:
            wrapped = self._wrap(handler, method)
            self._wrapped[method] = (handler, wrapped)  # bounded: only methods that are served get here
        return wrapped

    def _wrap(self, handler: _Handler, method: str) -> _Handler:
        async def unary(request: Any, context: _Context) -> Any:
            sha256 = self._admit(context, method)
            if handler.unary_unary:
                return await handler.unary_unary(request, context)
            async with self._streams.while_known(sha256):
                return await handler.stream_unary(request, context)

        async def stream(request: Any, context: _Context) -> AsyncIterator[Any]:
            async with self._streams.while_known(self._admit(context, method)):
                async for response in (handler.unary_stream or handler.stream_stream)(request, context):
                    yield response

        return rewrap(handler, unary, stream)

    def _admit(self, context: _Context, method: str) -> str:
        if not self._is_ready():
            raise TunefleetError(
                Reason.UNAVAILABLE, "The coordinator is starting.", hint="Try again in a moment."
            )
        sha256 = peer_certificate(context)
        principal = self._members.find(sha256)
        if principal is None:
            raise _unknown()
        require_role(principal, method)
        principal_of_call.set(principal)  # a call is one task, from its interceptors to its end
        return sha256


def _unknown() -> TunefleetError:
    return TunefleetError(
        Reason.CERTIFICATE_INVALID,
        "The certificate of this service was revoked, or its time is over.",
        hint="Join again with a new token: tunefleet fleet tokens create",
    )
