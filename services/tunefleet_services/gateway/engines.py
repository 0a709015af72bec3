"""Connections to engines: one pool for all of them, and what it means when one is gone.

A pooled connection may have been closed by the engine in the instant it is used again, so
a request that got not one byte back is sent once more, on a connection that is surely new.
Until the first byte of a body is here a client has been told nothing, so an engine that goes
away before is made up for by another replica, if there is one; afterwards nothing is sent twice.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeAlias

import aiohttp
from yarl import URL

from tunefleet_services.gateway.errors import GatewayError
from tunefleet_services.gateway.relays import RELAY_SCHEME, RelayedRequest, RelayedResponse
from tunefleet_services.gateway.routes import Route, RouteTableHolder
from tunefleet_services.gateway.settings import GatewaySettings
from tunefleet_services.gateway.silence import PatientReader

__all__ = ["EngineAnswer", "EngineRequest", "EngineResponse", "Engines"]

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
        affinity: What it has in common with others, as of `affinity_of`.
    """

    route: Route
    path: str
    headers: Mapping[str, str]
    body: bytes
    is_stream: bool
    affinity: bytes = b""


EngineResponse: TypeAlias = aiohttp.ClientResponse | RelayedResponse


class EngineAnswer:
    """An answer whose body has begun, or is empty. Whoever got it closes it."""

    __slots__ = ("_first", "_give_back", "_is_open", "_reader", "response")

    def __init__(
        self,
        response: EngineResponse,
        first: bytes,
        give_back: Callable[[], None],
        *,
        reader: PatientReader | None = None,
    ) -> None:
        self.response = response
        self._first = first
        self._give_back = give_back
        self._reader = reader
        self._is_open = True

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.response.status

    async def read(self) -> bytes:
        """Return the next bytes of the body; empty at its end."""
        if self._first:
            first, self._first = self._first, b""
            return first
        reader = self._reader
        return await (self.response.content.readany() if reader is None else reader.read())

    def is_at_end(self) -> bool:
        """Say whether `read` has nothing more to return."""
        return not self._first and self.response.content.at_eof()

    def close(self) -> None:
        """End the engine's work too, unless the answer was read to its end."""
        if self._is_open:
            self._is_open = False
            self.response.close()
            self._give_back()
            if self._reader is not None:
                self._reader.close()


class _Gone(Exception):
    """An engine cannot be reached, or left before the first byte of a body."""


class Engines:
    """Sends requests to engines. Made by `Engines.opened`, inside a running event loop."""

    def __init__(
        self,
        pooled: aiohttp.ClientSession,
        unpooled: aiohttp.ClientSession,
        settings: GatewaySettings,
        routes: RouteTableHolder,
    ) -> None:
        self._pooled = pooled
        self._unpooled = unpooled
        self._settings = settings
        self._replicas = routes.replicas
        self._relays = routes.relays

    @classmethod
    @asynccontextmanager
    async def opened(cls, settings: GatewaySettings, routes: RouteTableHolder) -> AsyncGenerator[Engines]:
        """Open the pool, and close its connections at the end."""
        # No limit of connections: the gateway bounds requests in flight.
        pool = aiohttp.TCPConnector(limit=0, keepalive_timeout=_POOL_IDLE_SECONDS)
        fresh = aiohttp.TCPConnector(limit=0, force_close=True)
        connect = settings.connect_seconds
        async with _session(pool, connect) as pooled, _session(fresh, connect) as unpooled:
            yield cls(pooled, unpooled, settings, routes)

    async def send(self, request: EngineRequest) -> EngineAnswer:
        """Send a request and wait for the first bytes of the answer's body. The caller closes it.

        Raises:
            GatewayError: 503 if no engine of the route can be reached, or each went away before
                it answered; 504 if one stayed silent, 502 if its answer is not HTTP.
        """
        error: _Gone | None = None
        uids = request.route.replica_uids
        order = self._replicas.order(request.route.engine_addresses, request.affinity)
        # The routes may be those of before a replica began to drain.
        for address in self._replicas.draining_last(order, uids):
            replica = uids.get(address, "")
            self._replicas.take(address, replica)
            give_back = partial(self._replicas.give_back, address, replica)
            try:
                return await self._ask(address, request, give_back)
            except BaseException as caught:
                give_back()
                error = _class(caught, request.route)
                self._replicas.avoid(address)
        raise unavailable(request.route) from error

    async def _ask(self, address: str, request: EngineRequest, give_back: Callable[[], None]) -> EngineAnswer:
        patience = self._settings.idle_seconds if request.is_stream else self._settings.answer_seconds
        if address.startswith(f"{RELAY_SCHEME}:"):
            asked = RelayedRequest(
                address=address, path=request.path, headers=request.headers, body=request.body
            )
            connect = self._settings.connect_seconds
            relayed = await self._relays.send(asked, connect_seconds=connect, read_seconds=patience)
            return EngineAnswer(relayed, await _first_bytes(relayed), give_back)
        async with asyncio.timeout(patience):
            response = await self._reach(_url(address, request.path), request)
            first = await _first_bytes(response)
        content = response.content
        reader = None if content.at_eof() else PatientReader(content, patience)
        return EngineAnswer(response, first, give_back, reader=reader)

    async def _reach(self, url: URL, request: EngineRequest) -> aiohttp.ClientResponse:
        try:
            return await _post(self._pooled, url, request)
        except aiohttp.ClientConnectionError as error:
            if not _is_unanswered(error):
                raise
            return await _post(self._unpooled, url, request)


async def _post(session: aiohttp.ClientSession, url: URL, request: EngineRequest) -> aiohttp.ClientResponse:
    body = request.body
    return await session.post(
        url,
        data=body if len(body) <= _SEND_WHOLE_BYTES else io.BytesIO(body),
        headers=request.headers,
        # An engine that redirects would choose where users' prompts go.
        allow_redirects=False,
    )


async def _first_bytes(response: EngineResponse) -> bytes:
    try:
        return await response.content.readany()
    except BaseException:
        response.close()
        raise


@lru_cache(maxsize=1024)
def _url(address: str, path: str) -> URL:
    return URL(address).with_path(path)


def _class(error: BaseException, route: Route) -> _Gone:
    """Return that an engine is gone, if an error says so; another replica may answer then.

    Raises:
        GatewayError: 504 if it is silent: it works on the request, and a second copy would only
            burden the fleet; 502 for what is not HTTP.
        BaseException: What is no error of the engine, as a client that left.
    """
    # A wait for a connection that was too long is an engine that is not there; both are a TimeoutError.
    is_silent = isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError)
    if is_silent:
        raise silent(route) from error
    if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | OSError):
        gone = _Gone(str(error))
        gone.__cause__ = error
        return gone
    if isinstance(error, aiohttp.ClientError):
        raise GatewayError(
            502,
            f"The engine of model '{route.model}' did not answer in HTTP. "
            "See its log: `tunefleet deployments list` names the server.",
            code="engine_answer_invalid",
            error_type="server_error",
        ) from error
    raise error


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


def _session(connector: aiohttp.TCPConnector, connect_seconds: float) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        # How long an engine may be silent is bounded outside: here it would be a timer for each piece.
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds, sock_read=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # the client gets the engine's bytes, not ours
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        trust_env=False,  # engines are near; a proxy from the environment is not meant for them
    )


def _is_unanswered(error: aiohttp.ClientConnectionError) -> bool:
    """Say whether not one byte of an answer came back, so that sending again is harmless."""
    # A disconnect in the middle of the head carries what was parsed of it instead of a text.
    return not isinstance(error, aiohttp.ServerDisconnectedError) or isinstance(error.message, str)
