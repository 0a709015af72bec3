"""Connections to engines: one pool for all of them, and what it means when one is gone.

A pooled connection may have been closed by the engine in the instant it is used again, so
a request that got not one byte back is sent once more, on a connection that is surely new.
"""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from yarl import URL

from tunefleet_services.gateway.errors import GatewayError
from tunefleet_services.gateway.routes import Route
from tunefleet_services.gateway.settings import GatewaySettings

__all__ = ["EngineRequest", "Engines"]

# Below the 5 s after which uvicorn, under most engines, closes an idle connection.
_POOL_IDLE_SECONDS = 4.0
# aiohttp copies longer bytes in one go on the loop, and warns; a file it sends in pieces.
_SEND_WHOLE_BYTES = 1024 * 1024
_RETRY_AFTER_SECONDS = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """What is sent to an engine.

    Attributes:
        route: Where to.
        path: Path on the engine, as `/v1/chat/completions`.
        headers: All headers beside those of the transport.
        body: The body, with the engine's name of the model.
        is_stream: Whether the answer comes in pieces, which bounds the silence allowed.
    """

    route: Route
    path: str
    headers: Mapping[str, str]
    body: bytes
    is_stream: bool


class Engines:
    """Sends requests to engines. Made by `Engines.opened`, inside a running event loop."""

    def __init__(
        self, pooled: aiohttp.ClientSession, unpooled: aiohttp.ClientSession, settings: GatewaySettings
    ) -> None:
        self._pooled = pooled
        self._unpooled = unpooled
        self._settings = settings

    @classmethod
    @asynccontextmanager
    async def opened(cls, settings: GatewaySettings) -> AsyncGenerator[Engines]:
        """Open the pool, and close its connections at the end."""
        # No limit of connections: the gateway bounds requests in flight.
        pool = aiohttp.TCPConnector(limit=0, keepalive_timeout=_POOL_IDLE_SECONDS)
        fresh = aiohttp.TCPConnector(limit=0, force_close=True)
        async with _session(pool) as pooled, _session(fresh) as unpooled:
            yield cls(pooled, unpooled, settings)

    async def send(self, request: EngineRequest) -> aiohttp.ClientResponse:
        """Send a request and wait for the head of the answer. The caller closes the response.

        Raises:
            GatewayError: 503 if the engine cannot be reached twice or went away before it
                answered, 504 if it stayed silent, 502 if its answer is not HTTP.
        """
        try:
            try:
                return await self._post(self._pooled, request)
            except aiohttp.ClientConnectionError as error:
                if not _is_unanswered(error):
                    raise
                return await self._post(self._unpooled, request)
        except aiohttp.ConnectionTimeoutError as error:
            raise unavailable(request.route) from error
        except TimeoutError as error:
            raise silent(request.route) from error
        except aiohttp.ClientConnectionError as error:
            raise unavailable(request.route) from error
        except aiohttp.ClientError as error:
            raise GatewayError(
                502,
                f"The engine of model '{request.route.model}' did not answer in HTTP. "
                "See its log: `tunefleet deployments list` names the server.",
                code="engine_answer_invalid",
                error_type="server_error",
            ) from error

    async def _post(self, session: aiohttp.ClientSession, request: EngineRequest) -> aiohttp.ClientResponse:
        settings = self._settings
        body = request.body
        return await session.post(
            URL(request.route.engine_address).with_path(request.path),
            data=body if len(body) <= _SEND_WHOLE_BYTES else io.BytesIO(body),
            headers=request.headers,
            # An engine that redirects would choose where users' prompts go.
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=settings.connect_seconds,
                sock_read=settings.idle_seconds if request.is_stream else settings.answer_seconds,
            ),
        )


def unavailable(route: Route) -> GatewayError:
    """Build the error for an engine that is not there, or left before it said anything."""
    return GatewayError(
        503,
        f"The engine of model '{route.model}' cannot be reached. Try again; "
        "`tunefleet deployments list` says how it is.",
        code="engine_unavailable",
        error_type="server_error",
        headers={"Retry-After": _RETRY_AFTER_SECONDS},
    )


def silent(route: Route) -> GatewayError:
    """Build the error for an engine that took the request and said nothing in time."""
    return GatewayError(
        504,
        f"The engine of model '{route.model}' was silent for too long. Ask for a stream or fewer tokens; "
        "`tunefleet deployments list` says how it is.",
        code="engine_timeout",
        error_type="server_error",
    )


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # the client gets the engine's bytes, not ours
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        trust_env=False,  # engines are near; a proxy from the environment is not meant for them
    )


def _is_unanswered(error: aiohttp.ClientConnectionError) -> bool:
    """Say whether not one byte of an answer came back, so that sending again is harmless."""
    if isinstance(error, aiohttp.SocketTimeoutError):
        return False  # the engine works on it: a second copy would only burden it more
    # A disconnect in the middle of the head carries what was parsed of it instead of a text.
    return not isinstance(error, aiohttp.ServerDisconnectedError) or isinstance(error.message, str)
