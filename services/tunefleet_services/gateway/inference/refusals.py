"""What an engine's refusal, or one of the gateway itself, means to a gRPC caller."""

from __future__ import annotations

import json
from typing import Any

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_services.gateway.errors import GatewayError
from tunefleet_services.gateway.routes import Route

__all__ = ["deployment_not_found", "from_engine", "from_gateway"]

_REASONS = {
    "engine_unavailable": Reason.UNAVAILABLE,
    "engine_timeout": Reason.TIME_LIMIT,
    "engine_answer_invalid": Reason.BACKEND_FAILED,
    "gateway_full": Reason.UNAVAILABLE,
}
_REQUEST_IS_WRONG = (400, 413, 422)
_NOT_NOW = (404, 429, 503)


def deployment_not_found(model: str) -> TunefleetError:
    """Build the error for a name without a route."""
    return TunefleetError(
        Reason.DEPLOYMENT_NOT_FOUND,
        f"No model '{model}' is served here.",
        hint="tunefleet deployments list shows what is; tunefleet deploy serves another.",
        metadata={"model": model},
    )


def from_gateway(error: GatewayError) -> TunefleetError:
    """Return the typed form of a refusal of the gateway."""
    return TunefleetError(
        _REASONS.get(error.code, Reason.BACKEND_FAILED),
        error.message,
        hint="Try again; `tunefleet deployments list` says how the engine is.",
        metadata={"code": error.code},
    )


def from_engine(route: Route, status: int, body: bytes) -> TunefleetError:
    """Return what an engine's HTTP error means."""
    said = _message(body)
    metadata = {"model": route.model, "status": str(status), "engine": said}
    if status in _REQUEST_IS_WRONG:
        return TunefleetError(
            Reason.FIELD_INVALID,
            f"The engine refuses the request: {said}",
            hint="Correct the request and send it again.",
            metadata=metadata,
        )
    if status in _NOT_NOW:
        return TunefleetError(
            Reason.UNAVAILABLE,
            f"The engine of model '{route.model}' does not take the request now: {said}",
            hint="Try again soon; `tunefleet deployments list` says how the engine is.",
            metadata=metadata,
        )
    return TunefleetError(
        Reason.BACKEND_FAILED,
        f"The engine of model '{route.model}' failed with HTTP status {status}: {said}",
        hint="See its log: `tunefleet deployments list` names the server.",
        metadata=metadata,
    )


def _message(body: bytes) -> str:
    try:
        document: Any = json.loads(body)
        error: Any = document.get("error", document)
        message: Any = error.get("message")
    except (ValueError, AttributeError):  # no JSON, or no object
        message = None
    return str(message) if message else body.decode(errors="replace").strip() or "it gave no reason"
