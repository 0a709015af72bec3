"""Pass one completion request to its engine and copy the answer, byte for byte.

The answer is never parsed. When it breaks off in the middle the client must see that it
did: the connection is cut without the end mark of a complete answer, and a stream gets an
error event first, where it stands between two events.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from tunefleet_services.gateway.affinity import affinity_of
from tunefleet_services.gateway.body import parse_body
from tunefleet_services.gateway.engines import (
    EngineAnswer,
    EngineRequest,
    EngineResponse,
    Engines,
    silent,
    unavailable,
)
from tunefleet_services.gateway.errors import GatewayError, error_document
from tunefleet_services.gateway.exchange import CLIENT_GONE_STATUS, Exchange, current_exchange
from tunefleet_services.gateway.histogram import Pieces
from tunefleet_services.gateway.metrics import Metrics
from tunefleet_services.gateway.reading import read_body
from tunefleet_services.gateway.routes import Route
from tunefleet_services.gateway.routing import ModelRoutes
from tunefleet_services.gateway.settings import GatewaySettings
from tunefleet_services.gateway.slots import slot
from tunefleet_services.gateway.tracing import traced
from tunefleet_services.gateway.usage import usage_at_end

__all__ = ["Forwarder", "engine_request", "read_answer"]

# Everything else stays here, the API token first of all: an engine has no use for it.
_FORWARDED = ("Accept", "User-Agent")

_NOT_COPIED = frozenset(
    {
        # Of the connection to the engine, not of the answer (RFC 9110, 7.6.1).
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        # The gateway's own to say; engines allow every origin by default.
        "access-control-allow-credentials",
        "access-control-allow-headers",
        "access-control-allow-methods",
        "access-control-allow-origin",
        "access-control-expose-headers",
        "access-control-max-age",
        "date",
        "server",
        "set-cookie",
    }
)
# Into an empty buffer: far below the 64 KiB at which asyncio and aiohttp begin to wait.
_NEVER_BLOCKS_BYTES = 16 * 1024
_EVENT_STREAM = "text/event-stream"
# Where engines say how many tokens there were: the last event before the end mark, or the end of an object.
_TAIL_BYTES = 4096
_STREAM_END = re.compile(rb"data: ?\[DONE\]\s*\Z")
_LONGEST_REFUSAL_BYTES = 256 * 1024
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


_EMBEDDINGS = "/v1/embeddings"
_HAS_NO_SUCH_PATH = (404, 405, 501)


class Forwarder:
    """Handles the paths that are passed to an engine as they are."""

    def __init__(
        self, *, routes: ModelRoutes, engines: Engines, settings: GatewaySettings, metrics: Metrics
    ) -> None:
        self._routes = routes
        self._engines = engines
        self._settings = settings
        self._metrics = metrics

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer `POST /v1/chat/completions`, `POST /v1/completions` and `POST /v1/embeddings`.

        Raises:
            GatewayError: For everything that went wrong before the first byte of an answer.
        """
        with slot(self._metrics, self._settings):
            body = parse_body(await read_body(request, self._settings))
            route = await self._routes.find(request, body.model, body.fields)
            asked = engine_request(
                request,
                route,
                body.for_engine(route.engine_model),
                path=request.path,
                is_stream=body.is_stream,
                fields=body.fields,
            )
            upstream = await self._engines.send(asked)
            try:
                if request.path == _EMBEDDINGS and upstream.status in _HAS_NO_SUCH_PATH:
                    raise _makes_no_embeddings(route)
                return await self._copy(request, upstream)
            finally:
                upstream.close()

    async def _copy(self, request: web.Request, upstream: EngineAnswer) -> web.StreamResponse:
        """Copy an answer. Nothing is sent before its first byte is here: until then, an error can be."""
        exchange = current_exchange()
        chunk = await upstream.read()  # is here already
        exchange.mark_first_byte()
        exchange.status = status = upstream.status
        reason = upstream.response.reason
        headers = _answer_headers(upstream.response, exchange)
        if upstream.is_at_end():
            # All of it is here: head and body leave in one packet instead of two.
            exchange.bytes_sent = len(chunk)
            exchange.usage = usage_at_end(chunk)
            return web.Response(status=status, reason=reason, headers=headers, body=chunk)
        downstream = web.StreamResponse(status=status, reason=reason, headers=headers)
        if downstream.content_type == _EVENT_STREAM:
            exchange.pieces = pieces = Pieces()
        else:
            pieces = None
        before = last = b""
        try:
            await downstream.prepare(request)
            while chunk:
                await self._write(request, downstream, chunk)
                exchange.bytes_sent += len(chunk)
                before, last = last, chunk
                try:
                    chunk = await upstream.read()
                    if pieces is not None and chunk:
                        pieces.note(chunk)
                except (aiohttp.ClientError, OSError):  # a TimeoutError is an OSError
                    exchange.outcome = "engine_gone"
                    await _cut(request, downstream, last)
                    return downstream
            tail = before[-_TAIL_BYTES:] + last[-_TAIL_BYTES:]
            if pieces is not None and not (_has_end_mark(upstream.response) or _STREAM_END.search(tail)):
                exchange.outcome = "engine_gone"
                await _cut(request, downstream, last)
                return downstream
            exchange.usage = usage_at_end(tail)
            await downstream.write_eof()
        except (ConnectionError, TimeoutError):  # the client left, or takes nothing any more
            exchange.outcome = "client_gone"
            exchange.status = CLIENT_GONE_STATUS
            if request.transport is not None:
                request.transport.abort()
        return downstream

    async def _write(self, request: web.Request, downstream: web.StreamResponse, chunk: bytes) -> None:
        transport = request.transport
        is_flowing = transport is not None and not transport.get_write_buffer_size()
        if is_flowing and len(chunk) < _NEVER_BLOCKS_BYTES:
            await downstream.write(chunk)  # without a timer, as nearly every piece of a stream
            return
        async with asyncio.timeout(self._settings.idle_seconds):
            await downstream.write(chunk)


def _has_end_mark(response: EngineResponse) -> bool:
    """Say whether HTTP itself tells a whole body from one that broke off.

    A body that lasts until its connection closes ends alike when its engine dies (RFC 9112, 6.3).
    """
    return "Transfer-Encoding" in response.headers or "Content-Length" in response.headers


async def _cut(request: web.Request, downstream: web.StreamResponse, last: bytes) -> None:
    """End an answer so that nobody takes it for a complete one."""
    # Inside an event there is no place for another: its line would swallow it.
    if downstream.content_type == _EVENT_STREAM and last.endswith(_EVENT_ENDS):
        error = error_document(
            "The engine went away in the middle of the answer. Send the request again.",
            error_type="server_error",
            code="engine_gone",
        )
        await downstream.write(b"data: " + error + b"\n\n")
    if request.transport is not None:
        request.transport.close()  # after what is buffered, and without the last chunk's mark


def engine_request(
    request: web.Request,
    route: Route,
    body: bytes,
    *,
    path: str,
    is_stream: bool,
    fields: Mapping[str, object],
) -> EngineRequest:
    """Return what is sent to an engine for a request of a client; `fields` is its body as it came."""
    headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
    headers.update(traced(current_exchange(), request.headers))
    headers["Content-Type"] = "application/json"
    headers["Accept-Encoding"] = "identity"  # beside each other, packing costs more than it saves
    headers["X-Request-Id"] = current_exchange().request_id
    return EngineRequest(
        route=route,
        path=path,
        headers=headers,
        body=body,
        is_stream=is_stream,
        affinity=affinity_of(route.engine_model, fields) if len(route.engine_addresses) > 1 else b"",
    )


async def read_answer(upstream: EngineAnswer, route: Route) -> web.Response:
    """Return an engine's refusal as it is, read whole.

    Raises:
        GatewayError: 503 if the engine went away, 504 if it fell silent.
    """
    data = b""
    try:
        while len(data) < _LONGEST_REFUSAL_BYTES and (chunk := await upstream.read()):
            data += chunk
    except TimeoutError as error:
        raise silent(route) from error
    except (aiohttp.ClientError, OSError) as error:
        raise unavailable(route) from error
    response = upstream.response
    headers = _answer_headers(response, current_exchange())
    return web.Response(status=response.status, reason=response.reason, headers=headers, body=data)


def _makes_no_embeddings(route: Route) -> GatewayError:
    return GatewayError(
        400,
        f"The engine of model '{route.model}' makes no embeddings. Ask a model that was deployed with an "
        "engine that does, such as vllm.",
        code="unsupported_by_engine",
        param="model",
    )


def _answer_headers(upstream: EngineResponse, exchange: Exchange) -> Mapping[str, str]:
    left_out = _NOT_COPIED
    if named := upstream.headers.get("Connection"):
        left_out = left_out.union(name.strip() for name in named.lower().split(","))
    headers = CIMultiDict(
        (name, value) for name, value in upstream.headers.items() if name.lower() not in left_out
    )
    headers.setdefault("X-Request-Id", exchange.request_id)
    return headers
