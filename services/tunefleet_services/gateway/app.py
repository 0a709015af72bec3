"""The gateway as an aiohttp application: which path does what, and what every request passes.

Every request is admitted (source, then token), gets an id, is logged and is counted, in the
one middleware below; nothing is reachable around it. Deny by default: only `/health` asks
for no token, and it tells nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Handler

from tunefleet_core.errors import TunefleetError
from tunefleet_services.gateway.access_log import AccessLog
from tunefleet_services.gateway.admission import (
    admit_source,
    admit_token,
    knows_nobody_yet,
    token_of,
)
from tunefleet_services.gateway.engines import Engines
from tunefleet_services.gateway.errors import GatewayError, error_of
from tunefleet_services.gateway.exchange import CLIENT_GONE_STATUS, Exchange, current_exchange
from tunefleet_services.gateway.forward import Forwarder
from tunefleet_services.gateway.limits import TokenLimits
from tunefleet_services.gateway.metrics import Metrics
from tunefleet_services.gateway.models import ModelPages
from tunefleet_services.gateway.responses import ResponsePages
from tunefleet_services.gateway.routes import RouteTableHolder
from tunefleet_services.gateway.routing import ModelRoutes
from tunefleet_services.gateway.settings import GatewaySettings
from tunefleet_services.gateway.tracing import Tracing
from tunefleet_services.gateway.version_traffic import VersionTraffic

if TYPE_CHECKING:  # as in `routing`
    from tunefleet_services.gateway.fine_tuning import FineTuning

__all__ = ["build_app"]

_HEALTH = "/health"
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "authorization, content-type, idempotency-key, x-request-id, "
    "x-session-id",
    "Access-Control-Max-Age": "600",
}
"""What a browser may send from a page of an origin that was named."""
_LOGGER = logging.getLogger(__name__)


def build_app(
    routes: RouteTableHolder,
    *,
    settings: GatewaySettings | None = None,
    access_log: AccessLog | None = None,
    metrics: Metrics | None = None,
    fine_tuning: FineTuning | None = None,
    traffic: VersionTraffic | None = None,
    tracing: Tracing | None = None,
) -> web.Application:
    """Build the application.

    Run it with `handler_cancellation=True`, as `serve_gateway` does: a client that leaves
    before its answer began is noticed only by that.

    Args:
        routes: Read anew for every request.
        settings: Limits; the defaults if left out.
        access_log: Where requests are logged; standard error if left out.
        metrics: Counters to share with another door; its own if left out.
        fine_tuning: Files, jobs and fine-tuned models; left out: there are none here.
        traffic: Counts by version to share with another door; its own if left out.
        tracing: What makes spans of requests; left out: there are none.
    """
    gateway = _Gateway(
        routes,
        settings or GatewaySettings(),
        access_log or AccessLog(),
        metrics or Metrics(),
        fine_tuning,
        traffic or VersionTraffic(),
        tracing,
    )
    settings = gateway.settings
    app = web.Application(middlewares=[gateway.answer], client_max_size=settings.max_body_bytes)
    app.cleanup_ctx.append(gateway.running)
    app.on_response_prepare.append(gateway.allow_origin)
    pages = ModelPages(routes, fine_tuning)
    responses = ResponsePages(
        routes=gateway.routes, engines=gateway.engines, settings=settings, metrics=gateway.metrics
    )
    app.add_routes(
        [
            web.get(_HEALTH, gateway.health),
            web.get("/metrics", gateway.show_metrics),
            web.get("/v1/models", pages.list_models),
            web.get("/v1/models/{model:.+}", pages.get_model),
            web.post("/v1/chat/completions", gateway.forward),
            web.post("/v1/completions", gateway.forward),
            web.post("/v1/embeddings", gateway.forward),
            web.post("/v1/responses", responses.create),
            *(fine_tuning.paths() if fine_tuning else ()),
        ]
    )
    return app


class _Gateway:
    """What the requests of one application share."""

    def __init__(
        self,
        table: RouteTableHolder,
        settings: GatewaySettings,
        access_log: AccessLog,
        metrics: Metrics,
        fine_tuning: FineTuning | None,
        traffic: VersionTraffic,
        tracing: Tracing | None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.traffic = traffic
        self.routes = ModelRoutes(table, fine_tuning, traffic)
        self._table = table
        self._log = access_log
        self._tracing = tracing
        self._fine_tuning = fine_tuning
        self._limits = TokenLimits(settings)
        self._engines: Engines | None = None

    async def running(self, app: web.Application) -> AsyncIterator[None]:
        """Hold the pool and the log open while the application runs."""
        self._log.start()
        async with Engines.opened(self.settings, self._table) as engines:
            self._engines = engines
            yield
        if self._fine_tuning is not None:
            await self._fine_tuning.close()
        await asyncio.to_thread(self._log.stop)

    def engines(self) -> Engines:
        assert self._engines is not None  # aiohttp runs `running` before it takes requests
        return self._engines

    async def allow_origin(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let pages of the origins that were named read answers; of no other."""
        origin = request.headers.get("Origin")
        if origin in self.settings.allowed_origins:
            response.headers.update({"Access-Control-Allow-Origin": origin, "Vary": "Origin"})

    async def forward(self, request: web.Request) -> web.StreamResponse:
        forwarder = Forwarder(
            routes=self.routes, engines=self.engines(), settings=self.settings, metrics=self.metrics
        )
        return await forwarder.handle(request)

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def show_metrics(self, request: web.Request) -> web.Response:
        text = self.metrics.render(
            log_lines_dropped=self._log.dropped,
            outstanding=self._table.replicas.outstanding,
            project=current_exchange().project,
        )
        return web.Response(
            body=text.encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    @web.middleware
    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Admit a request, have it handled, log and count it, whatever happens."""
        exchange = Exchange.begin(request)
        if self._tracing is not None:
            exchange.trace = self._tracing.begin(exchange, request.headers)
        try:
            response = await self._handle(request, handler, exchange)
            if not response.prepared:
                exchange.status = response.status
                exchange.bytes_sent = response.content_length or 0
                response.headers.setdefault("X-Request-Id", exchange.request_id)
            return response
        except asyncio.CancelledError:  # the client left, or the gateway stops
            exchange.status = CLIENT_GONE_STATUS
            exchange.outcome = "client_gone"
            raise
        finally:
            self.metrics.count(exchange)
            self.traffic.end(exchange)
            self._log.write(exchange.record())
            if exchange.trace is not None:
                exchange.trace.end(exchange)

    async def _handle(self, request: web.Request, handler: Handler, exchange: Exchange) -> web.StreamResponse:
        try:
            admit_source(request, self.settings)
            if request.method == "OPTIONS" and "Origin" in request.headers:
                return web.Response(status=204, headers=_PREFLIGHT)  # browsers send no token with it
            if request.path == _HEALTH:
                return await handler(request)
            if not self._table.is_known:
                raise knows_nobody_yet()
            exchange.project = admit_token(request, self._table.table.grants).project
            with self._limits.hold(token_of(request)):
                return await handler(request)
        except TunefleetError as error:
            exchange.outcome = "refused"
            return error_of(error).response()
        except GatewayError as error:
            exchange.outcome = "refused"
            return error.response()
        except web.HTTPException as error:
            exchange.outcome = "refused"
            return _unknown_path(request, error).response()
        except Exception:
            _LOGGER.exception("request %s failed", exchange.request_id)
            exchange.outcome = "refused"
            return _bug(exchange).response()


def _unknown_path(request: web.Request, error: web.HTTPException) -> GatewayError:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return GatewayError(
            405,
            f"{request.path[:256]} does not take {request.method}. Use {allowed}.",
            code="method_not_allowed",
            headers={"Allow": allowed},
        )
    return GatewayError(
        error.status,
        f"The gateway has nothing at {request.path[:256]}. It serves /v1/models, /v1/chat/completions, "
        "/v1/completions, /v1/responses, /v1/embeddings, /v1/files and /v1/fine_tuning/jobs.",
        code="unknown_url",
    )


def _bug(exchange: Exchange) -> GatewayError:
    return GatewayError(
        500,
        f"The gateway failed on this request. Report it with request id {exchange.request_id}.",
        code="internal_error",
        error_type="server_error",
    )
