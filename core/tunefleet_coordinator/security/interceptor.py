"""Checks every call: a token, a principal, a role that the method allows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import grpc
import grpc.aio

from tunefleet_coordinator.security.open_streams import OpenStreams, TokenLookup
from tunefleet_coordinator.security.principal import principal_of_call
from tunefleet_coordinator.security.roles import METHOD_ROLES, OPEN, require_role
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc.server_errors import abort_with

__all__ = ["METHOD_ROLES", "AuthInterceptor", "TokenLookup", "rewrap"]

# The shapes of grpc.aio handlers are not expressible in its own type stubs.
_Handler = Any
_Context = Any


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Sets the principal of a call, or ends the call.

    Args:
        tokens: Whose token is it.
        is_ready: Until it is true, calls with a good token are answered UNAVAILABLE.
    """

    def __init__(self, tokens: TokenLookup, is_ready: Callable[[], bool] = lambda: True) -> None:
        self._tokens = tokens
        self._is_ready = is_ready
        self._streams = OpenStreams(tokens)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Let the call pass, or answer it with the reason why not."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method in OPEN:
            return handler
        metadata = cast("tuple[tuple[str, str | bytes], ...]", handler_call_details.invocation_metadata or ())
        try:
            token = _token(metadata)
            principal = self._tokens.find(token)
            if principal is None:
                raise TunefleetError(
                    Reason.TOKEN_INVALID,
                    "Nobody knows this token.",
                    hint="Use the token in the state folder of `tunefleet up`, or set TUNEFLEET_TOKEN.",
                )
            require_role(principal, method)
            if not self._is_ready():
                raise TunefleetError(
                    Reason.UNAVAILABLE, "The coordinator is starting.", hint="Try again in a moment."
                )
        except TunefleetError as error:
            return _refusal(handler, error)
        principal_of_call.set(principal)  # a call is one task, from its interceptors to its end
        return handler if handler.unary_unary else self._while_known(handler, token)

    def _while_known(self, handler: _Handler, token: str) -> _Handler:
        async def take_stream(requests: Any, context: _Context) -> Any:
            async with self._streams.while_known(token):
                return await handler.stream_unary(requests, context)

        async def give_stream(request: Any, context: _Context) -> AsyncIterator[Any]:
            async with self._streams.while_known(token):
                async for response in (handler.unary_stream or handler.stream_stream)(request, context):
                    yield response

        return rewrap(handler, take_stream, give_stream)


def _token(metadata: tuple[tuple[str, str | bytes], ...]) -> str:
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str) and value.startswith("Bearer "):
            return value.removeprefix("Bearer ")
    raise TunefleetError(
        Reason.TOKEN_INVALID,
        "The call carries no token.",
        hint="Send it as metadata `authorization: Bearer TOKEN`.",
    )


def _refusal(handler: _Handler, error: TunefleetError) -> _Handler:
    async def refuse(_: Any, context: _Context) -> Any:
        await abort_with(context, error)

    async def refuse_stream(_: Any, context: _Context) -> AsyncIterator[Any]:
        await abort_with(context, error)
        yield None

    return rewrap(handler, refuse, refuse_stream, is_parsed=False)


def rewrap(
    handler: _Handler, unary: Callable[..., Any], stream: Callable[..., Any], *, is_parsed: bool = True
) -> _Handler:
    """Return a handler of the same kind of call with another behaviour."""
    codec = {
        # What is refused is not read: the answer must not depend on bytes of somebody unknown.
        "request_deserializer": handler.request_deserializer if is_parsed else None,
        "response_serializer": handler.response_serializer,
    }
    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(unary, **codec)
    if handler.unary_stream:
        return grpc.unary_stream_rpc_method_handler(stream, **codec)
    if handler.stream_stream:
        return grpc.stream_stream_rpc_method_handler(stream, **codec)
    return grpc.stream_unary_rpc_method_handler(unary, **codec)
