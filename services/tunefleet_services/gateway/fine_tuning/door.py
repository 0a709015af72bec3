"""What the gateway takes in of fine-tuning: its paths, and the models behind `ft:` names."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from tunefleet.model.v1.model_pb2 import Model
from tunefleet_core.rpc import ChannelTls
from tunefleet_services.gateway.admission import token_of
from tunefleet_services.gateway.body import parse_object
from tunefleet_services.gateway.errors import GatewayError
from tunefleet_services.gateway.exchange import current_exchange
from tunefleet_services.gateway.fine_tuning.calls import Coordinator, Session
from tunefleet_services.gateway.fine_tuning.files import FilePages
from tunefleet_services.gateway.fine_tuning.jobs import JobPages
from tunefleet_services.gateway.fine_tuning.names import FineTunedName, parse_fine_tuned_name
from tunefleet_services.gateway.fine_tuning.removal import remove_model
from tunefleet_services.gateway.fine_tuning.serving import Deployer
from tunefleet_services.gateway.reading import read_body
from tunefleet_services.gateway.routes import Route, RouteTableHolder
from tunefleet_services.gateway.routing import model_not_found
from tunefleet_services.gateway.settings import GatewaySettings

__all__ = ["FineTuning"]

_JOBS = "/v1/fine_tuning/jobs"
_USUAL_PROJECT = "default"


class FineTuning:
    """OpenAI's fine-tuning API before a coordinator.

    Args:
        user_address: The coordinator's user listener, `host:port`.
        routes: The table of the gateway.
        settings: Its limits.
        tls: What the listener's certificate is checked by; None: it is plain.
    """

    def __init__(
        self,
        user_address: str,
        routes: RouteTableHolder,
        settings: GatewaySettings,
        *,
        tls: ChannelTls | None = None,
    ) -> None:
        self._routes = routes
        self._settings = settings
        self._coordinator = Coordinator(user_address, tls)
        self._deployer = Deployer(routes, limit_seconds=settings.answer_seconds)

    def paths(self) -> Sequence[web.RouteDef]:
        """Return the paths that it answers."""
        files = FilePages(self._session, self._settings)
        jobs = JobPages(self._session, self._read)
        return [
            web.delete("/v1/models/{model:.+}", self._delete_model),
            web.post("/v1/files", files.create),
            web.get("/v1/files", files.list),
            web.get("/v1/files/{file}", files.get),
            web.get("/v1/files/{file}/content", files.content),
            web.delete("/v1/files/{file}", files.delete),
            web.post(_JOBS, jobs.create),
            web.get(_JOBS, jobs.list),
            web.get(f"{_JOBS}/{{job}}", jobs.get),
            web.post(f"{_JOBS}/{{job}}/cancel", jobs.cancel),
            web.post(f"{_JOBS}/{{job}}/pause", jobs.pause),
            web.post(f"{_JOBS}/{{job}}/resume", jobs.resume),
            web.get(f"{_JOBS}/{{job}}/events", jobs.events),
            web.get(f"{_JOBS}/{{job}}/checkpoints", jobs.checkpoints),
        ]

    async def route_of(self, request: web.Request, model: str) -> Route | None:
        """Return where requests for an `ft:` name go, waiting until its model is served; None: nowhere.

        Raises:
            TunefleetError: what the coordinator says to whoever asks.
            GatewayError: as `Deployer.route_of`.
        """
        asked = self._named(request, model)
        return None if asked is None else await self._deployer.route_of(*asked)

    async def model_of(self, request: web.Request, model: str) -> Model | None:
        """Return what an `ft:` name means, served or not; None: nothing of the caller's.

        Raises:
            TunefleetError: what the coordinator says to whoever asks.
        """
        asked = self._named(request, model)
        return None if asked is None else await self._deployer.model_of(*asked)

    async def close(self) -> None:
        """Close the connections to the coordinator."""
        await self._coordinator.close()

    async def _delete_model(self, request: web.Request) -> web.Response:
        """Answer `DELETE /v1/models/{model}`: remove a fine-tuned model, and take down what serves it."""
        exchange = current_exchange()
        exchange.model = model = request.match_info["model"]
        asked = self._named(request, model)
        if asked is None and model in self._routes.table.routes_of(exchange.project):
            raise GatewayError(
                405,
                f"'{model}' is a deployment, and DELETE takes fine-tuned models alone, by their ft: names. "
                f"Take it down with `tunefleet deployments delete {model}`.",
                code="method_not_allowed",
                param="model",
                headers={"Allow": "GET"},
            )
        if asked is None or await self._deployer.model_of(*asked) is None:
            raise model_not_found(model, self._routes, exchange.project)
        await remove_model(*asked, limit_seconds=self._settings.answer_seconds)
        return web.json_response({"id": model, "object": "model", "deleted": True})

    def _session(self, request: web.Request) -> Session:
        """Return the calls of who sent a request, in the project of their token, else the one they name."""
        project = current_exchange().project or request.headers.get("OpenAI-Project") or _USUAL_PROJECT
        return self._coordinator.session(token_of(request), project)

    def _named(self, request: web.Request, model: str) -> tuple[Session, FineTunedName] | None:
        name, project = parse_fine_tuned_name(model), current_exchange().project
        if name is None or (project and name.project != project):
            return None
        return self._coordinator.session(token_of(request), name.project), name

    async def _read(self, request: web.Request) -> dict[str, object]:
        return parse_object(await read_body(request, self._settings))
