"""`GET /v1/models` and `GET /v1/models/{model}`: what is served, and what was fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from aiohttp import web

from tunefleet_services.gateway.exchange import current_exchange
from tunefleet_services.gateway.routes import Route, RouteTableHolder
from tunefleet_services.gateway.routing import model_not_found

if TYPE_CHECKING:  # as in `routing`
    from tunefleet_services.gateway.fine_tuning import FineTuning

__all__ = ["ModelPages"]


class ModelPages:
    """Handles the two model paths."""

    def __init__(self, routes: RouteTableHolder, fine_tuning: FineTuning | None) -> None:
        self._routes = routes
        self._fine_tuning = fine_tuning

    async def list_models(self, request: web.Request) -> web.Response:
        """Answer with every model that has a route and is the caller's to see, by name."""
        routes = self._routes.table.routes_of(current_exchange().project)
        models = [_model(routes[name]) for name in sorted(routes)]
        return web.json_response({"object": "list", "data": models})

    async def get_model(self, request: web.Request) -> web.Response:
        """Answer with one model. Its name may hold slashes, as those of the Hub do.

        A fine-tuned model is shown before it is served: a question about it deploys nothing.
        """
        exchange = current_exchange()
        exchange.model = model = request.match_info["model"]
        route = self._routes.table.routes_of(exchange.project).get(model)
        if route is not None:
            exchange.is_known_model = True
            exchange.route = route
            return web.json_response(_model(route))
        found = await self._fine_tuning.model_of(request, model) if self._fine_tuning else None
        if found is None:
            raise model_not_found(model, self._routes, exchange.project)
        project = found.name.split("/")[1]
        return web.json_response(_document(model, created=found.create_time.seconds, owner=project))


def _model(route: Route) -> Mapping[str, object]:
    return _document(route.model, created=int(route.create_time.timestamp()), owner=route.project)


def _document(model: str, *, created: int, owner: str) -> Mapping[str, object]:
    return {"id": model, "object": "model", "created": created, "owned_by": owner}
