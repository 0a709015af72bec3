"""Streams end soon after their token does.

A call is checked when it begins; a stream may last for days. So the tokens of open streams
are looked up again every second: one look per token, however many streams it holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from tunefleet_coordinator.security.principal import Principal
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["OpenStreams", "TokenLookup"]

_LOOK_EVERY_SECONDS = 1.0


class TokenLookup(Protocol):
    """Whose token is it: `TokenBook`, or anything that knows tokens."""

    def find(self, token: str) -> Principal | None:
        """Return whose token this is; None for one that is unknown, revoked or past its time."""
        ...


class OpenStreams:
    """The streams of one listener, by token.

    Args:
        tokens: Whose token is it. Where callers show certificates, their digests stand for tokens.
        ended: What a stream ends with when its token does; left out: that of an API token.
    """

    def __init__(self, tokens: TokenLookup, ended: Callable[[], TunefleetError] | None = None) -> None:
        self._tokens = tokens
        self._ended = ended or _token_ended
        self._open: dict[str, set[asyncio.Timeout]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def while_known(self, token: str) -> AsyncGenerator[None]:
        """Run a block for as long as somebody has the token.

        Raises:
            TunefleetError: `ended`, within about a second of the token's end.
        """
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._open.setdefault(token, set()).add(limit)
                self._look_later()
                try:
                    yield
                finally:
                    self._forget(token, limit)
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._ended() from None

    def _forget(self, token: str, limit: asyncio.Timeout) -> None:
        streams = self._open.get(token, set())
        streams.discard(limit)
        if not streams:
            self._open.pop(token, None)

    def _look_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_EVERY_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for token in list(self._open):
            if self._is_known(token):
                continue
            for limit in self._open.pop(token):
                limit.reschedule(now)  # a limit in the past ends the block at once
        if self._open:
            self._look_later()

    def _is_known(self, token: str) -> bool:
        try:
            return self._tokens.find(token) is not None
        except TunefleetError:
            return True  # nothing can be looked up just now: that is no revocation


def _token_ended() -> TunefleetError:
    return TunefleetError(
        Reason.TOKEN_INVALID,
        "The token of this stream was revoked, or its time is over.",
        hint="Ask an admin for another token: tunefleet tokens create",
    )
