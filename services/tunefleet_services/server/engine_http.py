"""A few control questions to an engine over its OpenAI HTTP.

Plain urllib in a thread: a deployment asks some dozens of questions when it is loaded,
which is not worth a dependency of the server.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["EngineHttp", "EngineReply"]

_CALL_SECONDS = 120.0
_NO_SUCH_ROUTE = (404, 405, 501)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReply:
    """Status and parsed body of an answer; the body is None if it was no JSON object."""

    status: int
    body: Mapping[str, object] | None

    @property
    def is_ok(self) -> bool:
        """Whether the engine did what it was asked."""
        return self.status == 200 and self.body is not None

    @property
    def message(self) -> str:
        """The engine's own sentence about what went wrong."""
        error = (self.body or {}).get("error")
        if isinstance(error, dict):
            return str(cast("dict[str, object]", error).get("message", ""))
        return str((self.body or {}).get("message", "")) or f"HTTP {self.status}"

    def lacks_route(self, model: str) -> bool:
        """Whether the engine has no such question at all, rather than no such model."""
        return self.status in _NO_SUCH_ROUTE and model not in self.message


class EngineHttp:
    """One engine's address."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        # Loopback needs no proxy, and one from the environment would swallow the call.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    async def post(self, path: str, body: Mapping[str, object]) -> EngineReply:
        """Ask and return the answer, whatever its status.

        Raises:
            TunefleetError: UNAVAILABLE if the engine does not answer, BACKEND_FAILED if
                it fails on the question.
        """
        reply = await asyncio.to_thread(self._post, path, json.dumps(body).encode())
        if reply.status >= 500 and reply.status not in _NO_SUCH_ROUTE:
            raise TunefleetError(
                Reason.BACKEND_FAILED,
                f"The engine failed on {path}: {reply.message}",
                hint="Look at the engine's log on the server's host.",
                metadata={"path": path, "status": str(reply.status)},
            )
        return reply

    def _post(self, path: str, data: bytes) -> EngineReply:
        url = self._address + path
        request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
        try:
            with self._opener.open(request, timeout=_CALL_SECONDS) as response:
                return EngineReply(status=response.status, body=_parse(response.read()))
        except urllib.error.HTTPError as error:
            with error:
                return EngineReply(status=error.code, body=_parse(error.read()))
        except (OSError, ValueError) as error:
            raise TunefleetError(
                Reason.UNAVAILABLE,
                f"The engine at {self._address} does not answer: {error}",
                hint="It is started again by itself; see: tunefleet deployments list",
                metadata={"address": self._address},
            ) from error


def _parse(text: bytes) -> Mapping[str, object] | None:
    try:
        value: object = json.loads(text)
    except ValueError:
        return None
    return cast("dict[str, object]", value) if isinstance(value, dict) else None
