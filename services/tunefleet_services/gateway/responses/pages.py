"""`POST /v1/responses`: ask the engine for a chat completion, answer with a response."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import aiohttp
from aiohttp import web

from tunefleet_core.errors import TunefleetError
from tunefleet_services.gateway.body import parse_body, parse_object
from tunefleet_services.gateway.engines import EngineAnswer, Engines, silent, unavailable
from tunefleet_services.gateway.errors import GatewayError, error_of
from tunefleet_services.gateway.event_stream import events_of
from tunefleet_services.gateway.exchange import CLIENT_GONE_STATUS, current_exchange
from tunefleet_services.gateway.forward import engine_request, read_answer
from tunefleet_services.gateway.histogram import Pieces
from tunefleet_services.gateway.metrics import Metrics
from tunefleet_services.gateway.reading import read_body
from tunefleet_services.gateway.responses.assembly import Assembly
from tunefleet_services.gateway.responses.chat import chat_body
from tunefleet_services.gateway.routes import Route
from tunefleet_services.gateway.routing import ModelRoutes
from tunefleet_services.gateway.settings import GatewaySettings
from tunefleet_services.gateway.slots import slot

__all__ = ["ResponsePages"]

_CHAT = "/v1/chat/completions"


class ResponsePages:
    """Handles the path of responses."""

    def __init__(
        self,
        *,
        routes: ModelRoutes,
        engines: Callable[[], Engines],
        settings: GatewaySettings,
        metrics: Metrics,
    ) -> None:
        self._routes = routes
        self._engines = engines
        self._settings = settings
        self._metrics = metrics

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Answer `POST /v1/responses`.

        Raises:
            GatewayError: For everything that went wrong before the first byte of an answer.
        """
        with slot(self._metrics, self._settings):
            data = await read_body(request, self._settings)
            body, asked = parse_body(data), parse_object(data)
            chat_body(asked, body.model)  # a wrong request begins no deployment
            route = await self._routes.find(request, body.model, asked)
            ask = engine_request(
                request,
                route,
                chat_body(asked, route.engine_model),
                path=_CHAT,
                is_stream=True,
                fields=asked,
            )
            upstream = await self._engines().send(ask)
            try:
                if upstream.status != 200:
                    return await read_answer(upstream, route)
                assembly = Assembly(request=asked)
                events = _events(assembly, upstream, route)
                if body.is_stream:
                    return await self._stream(request, assembly, events)
                async for _ in events:
                    pass
                return web.json_response(assembly.document())
            except TunefleetError as error:
                raise error_of(error) from error
            finally:
                upstream.close()

    async def _stream(
        self, request: web.Request, assembly: Assembly, events: AsyncGenerator[dict[str, Any]]
    ) -> web.StreamResponse:
        exchange = current_exchange()
        answer = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                "X-Request-Id": exchange.request_id,
            }
        )
        exchange.status = 200

        async def write(event: dict[str, Any]) -> None:
            data = f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode(
                errors="replace"
            )
            async with asyncio.timeout(self._settings.idle_seconds):
                await answer.write(data)
            exchange.bytes_sent += len(data)

        first = await anext(events)  # the engine has said something: until then, an error can be told
        try:
            await answer.prepare(request)
            try:
                await write(first)
                async for event in events:
                    await write(event)
            except (GatewayError, TunefleetError) as error:
                exchange.outcome = "engine_gone"
                await write(assembly.fail(error.message))
            await answer.write_eof()
        except (ConnectionError, TimeoutError):  # the client left, or takes nothing any more
            exchange.outcome, exchange.status = "client_gone", CLIENT_GONE_STATUS
            if request.transport is not None:
                request.transport.abort()
        return answer


async def _events(assembly: Assembly, upstream: EngineAnswer, route: Route) -> AsyncGenerator[dict[str, Any]]:
    """Yield the events of a response as the engine's chunks come."""
    exchange = current_exchange()
    has_begun = False
    try:
        async for chunk in events_of(upstream):
            if "error" in chunk:
                raise _failed(route, chunk["error"])
            if not has_begun:
                has_begun = True
                exchange.mark_first_byte()
                exchange.pieces = Pieces()
                for event in assembly.begin():
                    yield event
            elif exchange.pieces is not None:
                exchange.pieces.note(b"")
            for event in assembly.take(chunk):
                yield event
    except TimeoutError as error:
        raise silent(route) from error
    except (aiohttp.ClientError, OSError) as error:
        raise (_went_away() if has_begun else unavailable(route)) from error
    exchange.usage = assembly.tokens
    for event in assembly.end():
        yield event


def _went_away() -> GatewayError:
    return GatewayError(
        503,
        "The engine went away in the middle of the answer. Send the request again.",
        code="engine_gone",
        error_type="server_error",
    )


def _failed(route: Route, said: object) -> GatewayError:
    message = said.get("message") if isinstance(said, dict) else said  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return GatewayError(
        502,
        f"The engine of model '{route.model}' failed: {message}. Send the request again.",
        code="engine_failed",
        error_type="server_error",
    )
