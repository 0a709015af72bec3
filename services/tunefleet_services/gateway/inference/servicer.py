"""InferenceService: one engine request per call, pieces passed on as they come."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from typing import Any

import aiohttp

from tunefleet.inference.v1 import inference_service_pb2 as pb
from tunefleet.inference.v1 import inference_service_pb2_grpc as inference_grpc
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import RpcContext
from tunefleet_services.gateway.access_log import AccessLog
from tunefleet_services.gateway.admission import grant_of, knows_nobody_yet
from tunefleet_services.gateway.affinity import affinity_of
from tunefleet_services.gateway.engines import EngineAnswer, EngineRequest, Engines, silent, unavailable
from tunefleet_services.gateway.errors import GatewayError
from tunefleet_services.gateway.event_stream import events_of
from tunefleet_services.gateway.exchange import CLIENT_GONE_STATUS, Exchange
from tunefleet_services.gateway.histogram import Pieces
from tunefleet_services.gateway.inference.caller import metadata_of_call, token_of_call
from tunefleet_services.gateway.inference.openai import chat_body, tokenize_body
from tunefleet_services.gateway.inference.refusals import deployment_not_found, from_engine, from_gateway
from tunefleet_services.gateway.metrics import Metrics
from tunefleet_services.gateway.routes import Route, RouteTableHolder
from tunefleet_services.gateway.settings import GatewaySettings
from tunefleet_services.gateway.slots import slot
from tunefleet_services.gateway.splits import SESSION_HEADER, caller_of
from tunefleet_services.gateway.tracing import Tracing, traced
from tunefleet_services.gateway.version_traffic import VersionTraffic

__all__ = ["InferenceServicer"]

_LONGEST_ERROR_BYTES = 64 * 1024
_LONGEST_TOKENS_BYTES = 64 * 1024 * 1024
_HAS_NO_TOKENIZER = (404, 405, 501)
# What the access log and the metrics of both doors count by.
_STATUS_OF_REASON = {
    Reason.FIELD_INVALID: 400,
    Reason.TOKEN_INVALID: 401,
    Reason.DEPLOYMENT_NOT_FOUND: 404,
    Reason.CAPABILITY_UNSUPPORTED: 501,
    Reason.UNAVAILABLE: 503,
    Reason.TIME_LIMIT: 504,
}


class InferenceServicer(inference_grpc.InferenceServiceServicer):
    """Answers conversations; the docs of each method are in the proto."""

    def __init__(
        self,
        *,
        routes: RouteTableHolder,
        engines: Engines,
        settings: GatewaySettings,
        metrics: Metrics,
        access_log: AccessLog,
        traffic: VersionTraffic,
        tracing: Tracing | None = None,
    ) -> None:
        self._routes = routes
        self._engines = engines
        self._settings = settings
        self._metrics = metrics
        self._log = access_log
        self._traffic = traffic
        self._tracing = tracing

    async def Chat(self, request: pb.ChatRequest, context: RpcContext) -> AsyncGenerator[pb.ChatResponse]:
        with self._exchange("Chat", request.model, context) as exchange:
            route = self._route(request.model, context, exchange, user=request.user)
            body = chat_body(request, route.engine_model)
            with slot(self._metrics, self._settings):
                upstream = await self._send(exchange, route, "/v1/chat/completions", body, is_stream=True)
                try:
                    if upstream.status != 200:
                        raise from_engine(route, upstream.status, await _read(upstream, _LONGEST_ERROR_BYTES))
                    async for response in _answer(upstream, route, exchange):
                        yield response
                finally:
                    upstream.close()

    async def Tokenize(self, request: pb.TokenizeRequest, context: RpcContext) -> pb.TokenizeResponse:
        with self._exchange("Tokenize", request.model, context) as exchange:
            route = self._route(request.model, context, exchange)
            body = tokenize_body(request, route.engine_model)
            with slot(self._metrics, self._settings):
                upstream = await self._send(exchange, route, "/tokenize", body, is_stream=False)
                try:
                    if upstream.status in _HAS_NO_TOKENIZER:
                        raise _no_tokenizer(route)
                    data = await _read(upstream, _LONGEST_TOKENS_BYTES)
                finally:
                    upstream.close()
            if upstream.status != 200:
                raise from_engine(route, upstream.status, data)
            exchange.bytes_sent = len(data)
            return pb.TokenizeResponse(token_ids=_token_ids(data))

    def _route(self, model: str, context: RpcContext, exchange: Exchange, *, user: str = "") -> Route:
        if not self._routes.is_known:
            raise knows_nobody_yet()
        table = self._routes.table  # taken once: the call ends where it began
        grant = grant_of(token_of_call(context), table.grants)
        if grant is None:
            raise TunefleetError(
                Reason.TOKEN_INVALID,
                "No API token of this fleet was sent.",
                hint="Send it as metadata `authorization: Bearer TOKEN`.",
            )
        exchange.project = grant.project
        if not model:
            raise TunefleetError.field("model", "is missing; name a deployment")
        route = table.routes_of(grant.project).get(model)
        if route is None:
            raise deployment_not_found(model)
        exchange.is_known_model = True
        if (other := route.candidate) is not None and other.split is not None:
            session = metadata_of_call(context).get(SESSION_HEADER.lower(), "")
            route = route.version_for(caller_of(other.split.sticky, {"user": user}, session))
        exchange.engine_model = route.engine_model
        exchange.route = route
        self._traffic.begin(exchange, route)
        return route

    async def _send(
        self, exchange: Exchange, route: Route, path: str, body: bytes, *, is_stream: bool
    ) -> EngineAnswer:
        headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "X-Request-Id": exchange.request_id,
            **traced(exchange, {}),
        }
        has_choice = is_stream and len(route.engine_addresses) > 1
        return await self._engines.send(
            EngineRequest(
                route=route,
                path=path,
                headers=headers,
                body=body,
                is_stream=is_stream,
                affinity=affinity_of(route.engine_model, json.loads(body)) if has_choice else b"",
            )
        )

    @contextmanager
    def _exchange(self, method: str, model: str, context: RpcContext) -> Generator[Exchange]:
        """Log and count a call, and class what goes wrong in it."""
        exchange = Exchange(
            request_id=f"req-{uuid.uuid4().hex}",
            method="GRPC",
            path=f"/{pb.DESCRIPTOR.package}.InferenceService/{method}",
            model=model,
            status=200,
        )
        if self._tracing is not None:
            exchange.trace = self._tracing.begin(exchange, metadata_of_call(context))
        try:
            yield exchange
        except GatewayError as error:
            _mark(exchange, typed := from_gateway(error))
            raise typed from error
        except TunefleetError as error:
            _mark(exchange, error)
            raise
        except BaseException:  # cancelled, or a stream that nobody reads any more
            exchange.outcome, exchange.status = "client_gone", CLIENT_GONE_STATUS
            raise
        finally:
            self._metrics.count(exchange)
            self._traffic.end(exchange)
            self._log.write(exchange.record())
            if exchange.trace is not None:
                exchange.trace.end(exchange)


async def _answer(
    upstream: EngineAnswer, route: Route, exchange: Exchange
) -> AsyncGenerator[pb.ChatResponse]:
    last = pb.ChatResponse()
    try:
        async for event in events_of(upstream):
            if "error" in event:
                raise from_engine(route, 500, json.dumps(event).encode())
            text = _take(event, last)
            if text:
                if exchange.first_byte_seconds is None:
                    exchange.mark_first_byte()
                    exchange.pieces = Pieces()
                elif exchange.pieces is not None:
                    exchange.pieces.note(b"")
                exchange.bytes_sent += len(text)
                yield pb.ChatResponse(text=text)
    except TimeoutError as error:
        raise silent(route) from error
    except (aiohttp.ClientError, OSError) as error:
        raise unavailable(route) from error
    if last.HasField("usage"):
        exchange.usage = (last.usage.prompt_tokens, last.usage.completion_tokens)
    yield last


def _take(event: dict[str, Any], last: pb.ChatResponse) -> str:
    """Return the text of an event; what belongs into the last message goes there."""
    text = ""
    try:
        for choice in event.get("choices") or ():
            delta: Any = choice.get("delta") or {}
            text += str(delta.get("content") or "")
            last.finish_reason = choice.get("finish_reason") or last.finish_reason
        if usage := event.get("usage"):
            last.usage.prompt_tokens = usage.get("prompt_tokens") or 0
            last.usage.completion_tokens = usage.get("completion_tokens") or 0
    except (AttributeError, TypeError, ValueError):
        raise TunefleetError(
            Reason.BACKEND_FAILED,
            "The engine sent an event of another form than OpenAI's.",
            hint="See its log: `tunefleet deployments list` names the server.",
        ) from None
    return text


async def _read(upstream: EngineAnswer, limit: int) -> bytes:
    data = b""
    try:
        while len(data) < limit and (chunk := await upstream.read()):
            data += chunk
    except (aiohttp.ClientError, OSError):  # what came of an error says enough
        pass
    return data


def _token_ids(data: bytes) -> list[int]:
    try:
        return [int(token) for token in json.loads(data)["tokens"]]
    except (ValueError, KeyError, TypeError):
        raise TunefleetError(
            Reason.BACKEND_FAILED,
            "The engine answered with no list of token ids.",
            hint="See its log: `tunefleet deployments list` names the server.",
        ) from None


def _no_tokenizer(route: Route) -> TunefleetError:
    return TunefleetError(
        Reason.CAPABILITY_UNSUPPORTED,
        f"The engine of model '{route.model}' does not tell token ids.",
        hint="Deploy with an engine that has /tokenize, such as vllm.",
        metadata={"model": route.model, "capability": "TOKENIZE"},
    )


def _mark(exchange: Exchange, error: TunefleetError) -> None:
    begun = exchange.first_byte_seconds is not None
    exchange.outcome = "engine_gone" if begun else "refused"
    exchange.status = _STATUS_OF_REASON.get(error.reason, 502)
