"""What is known of one request while it runs; written to the log and counted at its end."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web

from tunefleet_services.gateway.histogram import Pieces
from tunefleet_services.gateway.routes import Route
from tunefleet_services.gateway.tracing import Trace

__all__ = ["CLIENT_GONE_STATUS", "Exchange", "Outcome", "current_exchange"]

CLIENT_GONE_STATUS = 499
"""Logged for a request whose client went away; never sent. The number is nginx's."""

Outcome = Literal["answered", "refused", "client_gone", "engine_gone"]
"""How it ended; `engine_gone`: in the middle of its answer, whose status had been sent."""

_GIVEN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# aiohttp runs the handler of a request in the context in which its middleware ran.
_CURRENT: ContextVar[Exchange] = ContextVar("exchange")


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request and its answer, so far.

    Attributes:
        project: The project that the caller's token is bound to; empty: all.
        request_id: The one that the client gave, if it is fit for a header and a log; else a new one.
        model: Name as the client said it.
        is_known_model: Whether a route of that name exists; other names never become metric labels.
        route: The route that was found for the model.
        version: Uid of the version of a deployment that it was passed on to; empty: none yet.
        is_split: Whether that version shared its model's traffic with another.
        first_byte_seconds: From the request's arrival to the first byte of an engine's answer.
        pieces: Of an answer that is a stream: when its pieces came.
        usage: Tokens of prompt and completion, if the engine counted them.
        trace: Its span, where requests are traced.
    """

    request_id: str
    method: str
    path: str
    model: str = ""
    is_known_model: bool = False
    engine_model: str = ""
    project: str = ""
    status: int = 0
    bytes_sent: int = 0
    outcome: Outcome = "answered"
    route: Route | None = None
    version: str = ""
    is_split: bool = False
    first_byte_seconds: float | None = None
    pieces: Pieces | None = None
    usage: tuple[int, int] | None = None
    trace: Trace | None = None
    started: float = field(default_factory=time.perf_counter)

    @classmethod
    def begin(cls, request: web.Request) -> Exchange:
        """Start the record of a request and make it the current one of this context."""
        given = request.headers.get("X-Request-Id", "")
        request_id = given if _GIVEN_ID.fullmatch(given) else f"req-{os.urandom(16).hex()}"
        exchange = cls(request_id=request_id, method=request.method, path=request.path)
        _CURRENT.set(exchange)
        return exchange

    def mark_first_byte(self) -> None:
        """Note that the answer begins now."""
        self.first_byte_seconds = self.seconds()

    def seconds(self) -> float:
        """Return the time since the request arrived."""
        return time.perf_counter() - self.started

    def record(self) -> Mapping[str, object]:
        """Return the access log record; times in milliseconds."""
        first = self.first_byte_seconds
        return {
            "event": "request",
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path[:256],
            "model": self.model[:256],
            "engine_model": self.engine_model,
            "status": self.status,
            "outcome": self.outcome,
            "bytes": self.bytes_sent,
            "ms": round(self.seconds() * 1e3, 3),
            "first_byte_ms": None if first is None else round(first * 1e3, 3),
        }


def current_exchange() -> Exchange:
    """Return the record of the request that is being handled."""
    return _CURRENT.get()
