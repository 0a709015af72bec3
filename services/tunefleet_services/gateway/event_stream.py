"""Read an engine's event stream, for the answers that are not passed on as bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, cast

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_services.gateway.engines import EngineAnswer

__all__ = ["events_of"]

_LONGEST_EVENT_BYTES = 1 << 20


async def events_of(answer: EngineAnswer) -> AsyncGenerator[dict[str, Any]]:
    """Read the event stream of an answer to its `[DONE]`.

    Raises:
        TunefleetError: UNAVAILABLE if it ends before, BACKEND_FAILED if it is no such stream.
        aiohttp.ClientError, OSError: The connection broke.
    """
    waiting = b""
    while chunk := await answer.read():
        *lines, waiting = (waiting + chunk).split(b"\n")
        if len(waiting) > _LONGEST_EVENT_BYTES:
            raise _not_understood("an event without an end")
        for line in lines:
            if not line.startswith(b"data:"):
                continue  # an empty line, a comment, the name of an event
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                return
            yield _event(data)
    raise TunefleetError(
        Reason.UNAVAILABLE,
        "The engine went away in the middle of the answer.",
        hint="Send the request again; `tunefleet deployments list` says how the engine is.",
    )


def _event(data: bytes) -> dict[str, Any]:
    try:
        event: object = json.loads(data)
    except ValueError:
        raise _not_understood("an event that is no JSON") from None
    if not isinstance(event, dict):
        raise _not_understood("an event that is no object")
    return cast("dict[str, Any]", event)


def _not_understood(what: str) -> TunefleetError:
    return TunefleetError(
        Reason.BACKEND_FAILED,
        f"The engine sent {what}.",
        hint="See its log: `tunefleet deployments list` names the server.",
    )
