"""How much one API token may ask: requests in a minute, requests at once; the next is told when to come."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tunefleet_services.gateway.errors import GatewayError
from tunefleet_services.gateway.settings import GatewaySettings

__all__ = ["TokenLimits"]

_BURST_SECONDS = 10.0
_MOST_TOKENS = 10_000
"""Of tokens that ask nothing now, so many are remembered at most."""


@dataclass(slots=True)
class _Use:
    """What a token has left: a bucket that fills evenly."""

    allowance: float
    at: float = field(default_factory=time.monotonic)
    running: int = 0


class TokenLimits:
    """Counts the requests of each token. Used from the gateway's event loop only."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._per_second = settings.requests_per_minute / 60
        self._burst = max(1.0, self._per_second * _BURST_SECONDS)
        self._uses: dict[str, _Use] = {}

    @contextmanager
    def hold(self, token: str) -> Generator[None]:
        """Count a request of a token while the block runs.

        Raises:
            GatewayError: 429 with Retry-After if the token has asked as much as it may.
        """
        settings = self._settings
        if not (settings.requests_per_minute or settings.requests_at_once):
            yield
            return
        use = self._use(token)
        if settings.requests_at_once and use.running >= settings.requests_at_once:
            raise _too_many(f"{settings.requests_at_once} requests of this API token are worked on", 1)
        if settings.requests_per_minute:
            if use.allowance < 1:
                wait = math.ceil((1 - use.allowance) / self._per_second)
                raise _too_many(f"This API token may ask {settings.requests_per_minute} times a minute", wait)
            use.allowance -= 1
        use.running += 1
        try:
            yield
        finally:
            use.running -= 1

    def _use(self, token: str) -> _Use:
        now = time.monotonic()
        use = self._uses.get(token)
        if use is None:
            if len(self._uses) >= _MOST_TOKENS:
                self._uses = {key: item for key, item in self._uses.items() if item.running}
            use = self._uses[token] = _Use(self._burst, now)
        use.allowance = min(self._burst, use.allowance + (now - use.at) * self._per_second)
        use.at = now
        return use


def _too_many(fact: str, wait: int) -> GatewayError:
    return GatewayError(
        429,
        f"{fact}. Try again in {wait} s.",
        code="rate_limit_exceeded",
        error_type="rate_limit_error",
        headers={"Retry-After": str(wait)},
    )
