"""The one place where exceptions of servicers become gRPC statuses."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from tunefleet_core.errors import Reason, TunefleetError, from_exception
from tunefleet_core.rpc.trailer import trailer_of

__all__ = ["ErrorInterceptor", "abort_with"]

_LOG = logging.getLogger(__name__)

# The shapes of grpc.aio handlers are not expressible in its own type stubs.
_Handler = Any
_Context = Any


async def abort_with(context: _Context, error: TunefleetError) -> NoReturn:
    """End a call with an error and its ErrorInfo."""
    message, trailing = trailer_of(error)
    await context.abort(grpc.StatusCode[error.code], message, trailing_metadata=trailing)
    raise AssertionError("abort returned")


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Maps whatever a servicer raises; unwraps the groups that a TaskGroup makes."""

    def __init__(self) -> None:
        self._wrapped: dict[str, tuple[_Handler, _Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Wrap the handler of a method; a method that nobody has is answered with a reason too."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return _unknown_method(method)
        inner, wrapped = self._wrapped.get(method, (None, None))
        if inner is not handler:
            wrapped = _wrap(handler, method)
            self._wrapped[method] = (handler, wrapped)  # bounded: only methods that are served get here
        return wrapped


def _wrap(handler: _Handler, method: str) -> _Handler:
    """Return a handler that parses in here and maps what is raised."""
    parse = _parser(handler.request_deserializer)
    wrap: Callable[..., _Handler]
    if handler.unary_unary:
        wrap, behaviour = grpc.unary_unary_rpc_method_handler, _unary(handler.unary_unary, parse, method)
    elif handler.unary_stream:
        wrap, behaviour = (
            grpc.unary_stream_rpc_method_handler,
            _stream(handler.unary_stream, parse, method),
        )
    elif handler.stream_stream:
        wrap, behaviour = (
            grpc.stream_stream_rpc_method_handler,
            _stream(handler.stream_stream, _each(parse), method),
        )
    else:
        wrap, behaviour = (
            grpc.stream_unary_rpc_method_handler,
            _unary(handler.stream_unary, _each(parse), method),
        )
    # Bytes are parsed in here: what gRPC itself cannot parse it answers with INTERNAL and no reason.
    return wrap(behaviour, request_deserializer=None, response_serializer=handler.response_serializer)


def _parser(deserialize: Callable[[bytes], Any] | None) -> Callable[[Any], Any]:
    def parse(raw: Any) -> Any:
        if deserialize is None:
            return raw
        try:
            return deserialize(raw)
        except DecodeError:
            raise TunefleetError.field(
                "request",
                "its bytes are not the message of this method",
                hint="Send the message that the proto names, with stubs of the same version.",
            ) from None

    return parse


def _each(parse: Callable[[Any], Any]) -> Callable[[Any], AsyncIterator[Any]]:
    async def parsed(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for raw in requests:
            yield parse(raw)

    return parsed


def _unknown_method(method: str) -> _Handler:
    async def refuse(_: Any, context: _Context) -> AsyncIterator[Any]:
        await abort_with(context, _not_served(method))
        yield None

    # It takes every kind of call.
    return cast(_Handler, grpc.stream_stream_rpc_method_handler(refuse))


def _not_served(method: str) -> TunefleetError:
    return TunefleetError(
        Reason.CAPABILITY_UNSUPPORTED,
        f"Nothing here answers {method}.",
        hint="Ask server reflection what is served here; upgrade the older side.",
        metadata={"method": method},
    )


def _unary(
    behaviour: Callable[..., Awaitable[Any]], parse: Callable[[Any], Any], method: str
) -> Callable[..., Awaitable[Any]]:
    async def call(raw: Any, context: _Context) -> Any:
        try:
            return await behaviour(parse(raw), context)
        except Exception as error:
            await _abort_mapped(context, error, method)

    return call


def _stream(
    behaviour: Callable[..., AsyncIterator[Any]], parse: Callable[[Any], Any], method: str
) -> Callable[..., AsyncIterator[Any]]:
    async def call(raw: Any, context: _Context) -> AsyncIterator[Any]:
        try:
            async for response in behaviour(parse(raw), context):
                yield response
        except Exception as error:
            await _abort_mapped(context, error, method)

    return call


async def _abort_mapped(context: _Context, error: Exception, method: str) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error  # the servicer has ended the call itself
    # What generated stubs raise for a method that the servicer does not have.
    is_missing = isinstance(error, NotImplementedError)
    classed = _not_served(method) if is_missing else from_exception(error)
    if classed.reason is Reason.INTERNAL:
        # The text of a fault stays in the log: it may show what the caller must not see.
        _LOG.exception("a fault in %s", method)
        classed = TunefleetError(
            Reason.INTERNAL,
            f"A fault of tunefleet in {method.rpartition('/')[2]}.",
            hint="See the log of the process, and report it.",
        )
    await abort_with(context, classed)
