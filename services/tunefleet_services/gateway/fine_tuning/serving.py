"""An `ft:` name that is asked for is served: its model is deployed, once, and waited for.

OpenAI's clients fine-tune and then chat; nothing between says "deploy". So the first request for
a name begins it, with the token of who asked, and waits until the route is there.
"""

from __future__ import annotations

import asyncio

from tunefleet.deployment.v1 import deployment_service_pb2 as pb
from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.model.v1.model_pb2 import Model
from tunefleet.model.v1.model_service_pb2 import GetModelRequest
from tunefleet_core.errors import Reason, TunefleetError, error_from_status
from tunefleet_services.gateway.errors import GatewayError
from tunefleet_services.gateway.fine_tuning.calls import RESOLVE_SECONDS, Session
from tunefleet_services.gateway.fine_tuning.names import FineTunedName
from tunefleet_services.gateway.fine_tuning.requests import new_request_id
from tunefleet_services.gateway.routes import Route, RouteTableHolder

__all__ = ["Deployer"]

_LOOK_EVERY_SECONDS = 0.25
_GONE = (DeploymentState.DEPLOYMENT_STATE_FAILED, DeploymentState.DEPLOYMENT_STATE_DELETED)


class Deployer:
    """Finds, and where there is none makes, the route of a fine-tuned model.

    Args:
        routes: The table of the gateway.
        limit_seconds: Longest wait for an engine to be ready.
    """

    def __init__(self, routes: RouteTableHolder, *, limit_seconds: float) -> None:
        self._routes = routes
        self._limit_seconds = limit_seconds
        # Names whose base was found to be right, each with the weights that it was right for: while
        # these are served, a coordinator that is away stops nobody.
        self._known: set[tuple[FineTunedName, str]] = set()

    async def route_of(self, session: Session, name: FineTunedName) -> Route | None:
        """Return where requests for a name go, waiting until its model is served; None: no such model.

        Raises:
            TunefleetError: what the coordinator says of the model or the deployment.
            GatewayError: 409 if another model has the deployment's name, 504 if it is not ready in time.
        """
        route = self._route(name)
        if route is not None and (name, route.engine_model) in self._known:
            return route
        if await self.model_of(session, name) is None:
            return None
        if route is None:
            route = await self._deploy(session, name)
        if route.engine_model.partition("@")[0] != name.model:
            raise GatewayError(
                409,
                f"The deployment '{name.model}' serves another model. Delete it, or ask for it by that name.",
                code="deployment_exists",
                param="model",
            )
        self._known.add((name, route.engine_model))
        return route

    async def model_of(self, session: Session, name: FineTunedName) -> Model | None:
        """Return a model; None if there is none of that name, or it was trained on another base."""
        asked = GetModelRequest(name=session.name("models", name.model))
        try:
            model = (await session.call(session.models.GetModel, asked)).model
        except TunefleetError as error:
            if error.reason in (Reason.MODEL_NOT_FOUND, Reason.FIELD_INVALID):
                return None
            raise
        return model if model.base_model == name.base else None

    def _route(self, name: FineTunedName) -> Route | None:
        return self._routes.table.routes_of(name.project).get(name.model)

    async def _deploy(self, session: Session, name: FineTunedName) -> Route:
        spec = pb.CreateDeploymentRequest(
            request_id=new_request_id(), parent=session.parent, deployment_id=name.model
        )
        spec.spec.model = f"models/{name.model}"
        try:
            async with asyncio.timeout(self._limit_seconds):
                try:
                    await session.call(session.deployments.CreateDeployment, spec, seconds=RESOLVE_SECONDS)
                except TunefleetError as error:
                    if error.reason is not Reason.DEPLOYMENT_EXISTS:  # another request began it
                        raise
                return await self._wait(session, name)
        except TimeoutError as error:
            raise GatewayError(
                504,
                f"Model '{name.model}' is not ready after {self._limit_seconds:.0f} s. Ask again; "
                "`tunefleet deployments list` says how it is.",
                code="deployment_timeout",
                error_type="server_error",
            ) from error

    async def _wait(self, session: Session, name: FineTunedName) -> Route:
        asked = pb.GetDeploymentRequest(name=session.name("deployments", name.model))
        while (route := self._route(name)) is None:
            found = (await session.call(session.deployments.GetDeployment, asked)).deployment
            if found.state in _GONE:
                if found.HasField("error"):
                    raise error_from_status(found.error)
                raise TunefleetError(
                    Reason.DEPLOYMENT_NOT_FOUND,
                    f"The deployment of '{name.model}' was taken down.",
                    hint="Ask again.",
                )
            await asyncio.sleep(_LOOK_EVERY_SECONDS)
        return route
