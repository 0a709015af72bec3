"""Places for requests that are passed on: both doors of a gateway share them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from tunefleet_services.gateway.errors import GatewayError
from tunefleet_services.gateway.metrics import Metrics
from tunefleet_services.gateway.settings import GatewaySettings

__all__ = ["slot"]


@contextmanager
def slot(metrics: Metrics, settings: GatewaySettings) -> Generator[None]:
    """Hold a place while the block runs.

    Raises:
        GatewayError: 503 with code `gateway_full` if there is none.
    """
    if metrics.in_flight >= settings.max_in_flight:
        raise GatewayError(
            503,
            f"The gateway passes on {settings.max_in_flight} requests already. Try again soon.",
            code="gateway_full",
            error_type="server_error",
            headers={"Retry-After": "1"},
        )
    metrics.in_flight += 1
    try:
        yield
    finally:
        metrics.in_flight -= 1
