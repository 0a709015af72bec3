"""Pass one completion request to its engine and copy the answer, byte for byte.

The answer is never parsed. When it breaks off in the middle the client must see that it
did: the connection is cut without the end mark of a complete answer, and a stream gets an
error event first, where it stands between two events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from tunefleet_services.gateway.body import RequestBody, parse_body
from tunefleet_services.gateway.engines import EngineRequest, Engines, silent, unavailable
from tunefleet_services.gateway.errors import GatewayError, error_document
from tunefleet_services.gateway.exchange import CLIENT_GONE_STATUS, Exchange, current_exchange
from tunefleet_services.gateway.metrics import Metrics
from tunefleet_services.gateway.models import model_not_found
from tunefleet_services.gateway.routes import Route, RouteTableHolder
from tunefleet_services.gateway.settings import GatewaySettings
from tunefleet_services.gateway.slots import slot

__all__ = ["Forwarder"]

# Everything else stays here, the API token first of all: an engine has no use for it.
_FORWARDED = ("Accept", "User-Agent", "Traceparent", "Tracestate")

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
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


class Forwarder:
    """Handles the two completion paths."""

    def __init__(
        self, *, routes: RouteTableHolder, engines: Engines, settings: GatewaySettings, metrics: Metrics
    ) -> None:
        self._routes = routes
        self._engines = engines
        self._settings = settings
        self._metrics = metrics

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer `POST /v1/chat/completions` and `POST /v1/completions`.

        Raises:
            GatewayError: For everything that went wrong before the first byte of an answer.
        """
        exchange = current_exchange()
        with slot(self._metrics, self._settings):
            body = parse_body(await self._read(request))
            exchange.model = body.model
            route = self._routes.table.routes_of(exchange.project).get(body.model)
            if route is None:
                raise model_not_found(body.model)
            exchange.is_known_model = True
            exchange.engine_model = route.engine_model
            upstream = await self._engines.send(_engine_request(request, route, body))
            try:
                return await self._copy(request, route, upstream)
            finally:
                # Ends the engine's work too, unless the answer was read to its end.
                upstream.close()

    async def _read(self, request: web.Request) -> bytes:
        limit = self._settings.max_body_bytes
        try:
            if (request.content_length or 0) > limit:
                raise web.HTTPRequestEntityTooLarge(max_size=limit)
            async with asyncio.timeout(self._settings.idle_seconds):
                return await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise GatewayError(
                413,
                f"The request body is longer than {limit} bytes. Send less in one request.",
                code="request_too_large",
            ) from error
        except web.RequestPayloadError as error:
            raise GatewayError(
                400,
                "The request body broke off or is not packed as its headers say. Send it again.",
                code="invalid_body",
            ) from error
        except TimeoutError as error:
            raise GatewayError(
                408, "The request body did not arrive in time. Send it again.", code="request_timeout"
            ) from error

    async def _copy(
        self, request: web.Request, route: Route, upstream: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        """Copy an answer. Nothing is sent before its first byte is here: until then, an error can be."""
        exchange = current_exchange()
        try:
            chunk = await upstream.content.readany()
        except TimeoutError as error:
            raise silent(route) from error
        except (aiohttp.ClientError, OSError) as error:
            raise unavailable(route) from error
        exchange.mark_first_byte()
        exchange.status = upstream.status
        headers = _answer_headers(upstream, exchange)
        if upstream.content.at_eof():
            # All of it is here: head and body leave in one packet instead of two.
            exchange.bytes_sent = len(chunk)
            return web.Response(status=upstream.status, reason=upstream.reason, headers=headers, body=chunk)
        downstream = web.StreamResponse(status=upstream.status, reason=upstream.reason, headers=headers)
        last = b""
        try:
            await downstream.prepare(request)
            while chunk:
                await self._write(request, downstream, chunk)
                exchange.bytes_sent += len(chunk)
                last = chunk
                try:
                    chunk = await upstream.content.readany()
                except (aiohttp.ClientError, OSError):  # a TimeoutError is an OSError
                    exchange.outcome = "engine_gone"
                    await _cut(request, downstream, last)
                    return downstream
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


async def _cut(request: web.Request, downstream: web.StreamResponse, last: bytes) -> None:
    """End an answer so that nobody takes it for a complete one."""
    # Inside an event there is no place for another: its line would swallow it.
    if downstream.content_type == "text/event-stream" and last.endswith(_EVENT_ENDS):
        error = error_document(
            "The engine went away in the middle of the answer. Send the request again.",
            error_type="server_error",
            code="engine_gone",
        )
        await downstream.write(b"data: " + error + b"\n\n")
    if request.transport is not None:
        request.transport.close()  # after what is buffered, and without the last chunk's mark


def _engine_request(request: web.Request, route: Route, body: RequestBody) -> EngineRequest:
    headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
    headers["Content-Type"] = "application/json"
    headers["Accept-Encoding"] = "identity"  # beside each other, packing costs more than it saves
    headers["X-Request-Id"] = current_exchange().request_id
    return EngineRequest(
        route=route,
        path=request.path,
        headers=headers,
        body=body.for_engine(route.engine_model),
        is_stream=body.is_stream,
    )


def _answer_headers(upstream: aiohttp.ClientResponse, exchange: Exchange) -> Mapping[str, str]:
    named = upstream.headers.get("Connection", "").lower().split(",")
    left_out = _NOT_COPIED.union(name.strip() for name in named)
    headers = CIMultiDict(
        (name, value) for name, value in upstream.headers.items() if name.lower() not in left_out
    )
    headers.setdefault("X-Request-Id", exchange.request_id)
    return headers
