"""From the model of a request to the engine that answers for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from aiohttp import web

from tunefleet_core.spec.nearest import did_you_mean
from tunefleet_services.gateway.errors import GatewayError
from tunefleet_services.gateway.exchange import current_exchange
from tunefleet_services.gateway.routes import Route, RouteTableHolder
from tunefleet_services.gateway.splits import SESSION_HEADER, caller_of
from tunefleet_services.gateway.version_traffic import VersionTraffic

if TYPE_CHECKING:  # the coordinator's calls load gRPC, which a gateway without one does not need
    from tunefleet_services.gateway.fine_tuning import FineTuning

__all__ = ["ModelRoutes", "model_not_found"]


class ModelRoutes:
    """Finds routes by the names that clients say, also those of fine-tuned models.

    Args:
        routes: The table of the gateway.
        fine_tuning: Who knows fine-tuned models; None: nobody, and their names lead nowhere.
        traffic: Where it is noted which version answers.
    """

    def __init__(
        self, routes: RouteTableHolder, fine_tuning: FineTuning | None, traffic: VersionTraffic
    ) -> None:
        self._routes = routes
        self._fine_tuning = fine_tuning
        self._traffic = traffic

    async def find(self, request: web.Request, model: str, fields: Mapping[str, object]) -> Route:
        """Return the route of a model for a caller, and note it in the record of the request.

        While a new version is rolled out, `fields`, the body as it came, and the session's header
        say which caller it is.

        Raises:
            GatewayError: 404 for a model that is not served, or not the caller's to see.
            TunefleetError: what the coordinator says of a fine-tuned model that has to be deployed.
        """
        exchange = current_exchange()
        exchange.model = model
        route = self._routes.table.routes_of(exchange.project).get(model)
        if route is not None and (other := route.candidate) is not None and other.split is not None:
            session = request.headers.get(SESSION_HEADER, "")
            route = route.version_for(caller_of(other.split.sticky, fields, session))
        if route is None and self._fine_tuning is not None:
            route = await self._fine_tuning.route_of(request, model)
        if route is None:
            raise model_not_found(model, self._routes, exchange.project)
        exchange.is_known_model = True
        exchange.engine_model = route.engine_model
        exchange.route = route
        self._traffic.begin(exchange, route)
        return route


def model_not_found(model: str, routes: RouteTableHolder, project: str) -> GatewayError:
    """Build the error for a name without a route; it says the nearest of those that have one."""
    shown = model[:256]
    near = did_you_mean(shown, routes.table.routes_of(project))
    return GatewayError(
        404,
        f"No model '{shown}' is served{near or '.'} GET /v1/models or `tunefleet deployments list` shows "
        "what is; `tunefleet deploy` serves another.",
        code="model_not_found",
        param="model",
    )
