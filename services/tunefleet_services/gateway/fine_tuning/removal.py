"""A fine-tuned model is removed for good, and before it the deployment that its `ft:` name made.

OpenAI's `DELETE /v1/models/{model}` leaves nothing to ask. Were only the deployment taken down, the
next request for the name would make it anew.
"""

from __future__ import annotations

import asyncio

from tunefleet.deployment.v1 import deployment_service_pb2 as pb
from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.model.v1.model_service_pb2 import DeleteModelRequest
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_services.gateway.errors import GatewayError
from tunefleet_services.gateway.fine_tuning.calls import Session
from tunefleet_services.gateway.fine_tuning.names import FineTunedName
from tunefleet_services.gateway.fine_tuning.requests import new_request_id

__all__ = ["remove_model"]

_LOOK_EVERY_SECONDS = 0.25


async def remove_model(session: Session, name: FineTunedName, *, limit_seconds: float) -> None:
    """Take the deployment of a name down, if it serves that model; then remove the model.

    Args:
        session: The calls of who asked; they judge whether the caller may.
        name: Of a model that is there.
        limit_seconds: Longest wait for requests in flight, which end first.

    Raises:
        TunefleetError: PERMISSION_DENIED; STATE_CONFLICT while another deployment serves the model or a
            job needs it.
        GatewayError: 504 if the deployment is not gone in time.
    """
    deployment = session.name("deployments", name.model)
    if await _is_served(session, deployment, name):
        delete = pb.DeleteDeploymentRequest(request_id=new_request_id(), name=deployment, allow_missing=True)
        await session.call(session.deployments.DeleteDeployment, delete)
        try:
            async with asyncio.timeout(limit_seconds):
                while await _is_served(session, deployment, name):
                    await asyncio.sleep(_LOOK_EVERY_SECONDS)
        except TimeoutError as error:
            raise GatewayError(
                504,
                f"The deployment of '{name.model}' still answers requests after {limit_seconds:.0f} s. "
                "Delete the model again once they have ended.",
                code="deployment_timeout",
                error_type="server_error",
            ) from error
    request = DeleteModelRequest(request_id=new_request_id(), name=session.name("models", name.model))
    await session.call(session.models.DeleteModel, request)


async def _is_served(session: Session, deployment: str, name: FineTunedName) -> bool:
    """Say whether the deployment of a name serves its model: another may have been rolled out there."""
    try:
        asked = pb.GetDeploymentRequest(name=deployment)
        found = (await session.call(session.deployments.GetDeployment, asked)).deployment
    except TunefleetError as error:
        if error.reason is Reason.DEPLOYMENT_NOT_FOUND:
            return False
        raise
    is_there = found.state != DeploymentState.DEPLOYMENT_STATE_DELETED
    return is_there and found.spec.model in (f"models/{name.model}", session.name("models", name.model))
