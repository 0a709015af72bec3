"""`GET /v1/models` and `GET /v1/models/{model}`, from the route table alone."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from tunefleet_services.gateway.errors import GatewayError
from tunefleet_services.gateway.exchange import current_exchange
from tunefleet_services.gateway.routes import Route, RouteTableHolder

__all__ = ["ModelPages", "model_not_found"]


class ModelPages:
    """Handles the two model paths."""

    def __init__(self, routes: RouteTableHolder) -> None:
        self._routes = routes

    async def list_models(self, request: web.Request) -> web.Response:
        """Answer with every model that has a route and is the caller's to see, by name."""
        routes = self._routes.table.routes_of(current_exchange().project)
        models = [_model(routes[name]) for name in sorted(routes)]
        return web.json_response({"object": "list", "data": models})

    async def get_model(self, request: web.Request) -> web.Response:
        """Answer with one model. Its name may hold slashes, as those of the Hub do."""
        exchange = current_exchange()
        exchange.model = request.match_info["model"]
        route = self._routes.table.routes_of(exchange.project).get(exchange.model)
        if route is None:
            raise model_not_found(exchange.model)
        exchange.is_known_model = True
        return web.json_response(_model(route))


def model_not_found(model: str) -> GatewayError:
    """Build the error for a name without a route."""
    return GatewayError(
        404,
        f"No model '{model[:256]}' is served. GET /v1/models or `tunefleet models list` shows the models; "
        "`tunefleet deploy` serves another.",
        code="model_not_found",
        param="model",
    )


def _model(route: Route) -> Mapping[str, object]:
    return {
        "id": route.model,
        "object": "model",
        "created": int(route.create_time.timestamp()),
        "owned_by": route.project,
    }
