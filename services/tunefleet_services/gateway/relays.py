"""Requests to engines that cannot be dialled: their servers fetch them, a call of gRPC for each.

An engine's address is then `relay://SERVER/ENGINE`. The server listens for announcements; for each it
opens a call that brings it the request and brings the answer back. Here is the gateway's end
of both, without gRPC: whoever sends a request gets a response that reads like one of HTTP.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
from multidict import CIMultiDict

from tunefleet.inference.v1 import relay_service_pb2 as pb
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["RELAY_SCHEME", "RelayedRequest", "RelayedResponse", "Relays", "is_relay_address"]

RELAY_SCHEME = "relay"
_ADDRESS = re.compile(rf"{RELAY_SCHEME}://[\w.-]+/[\w.-]+")
_PIECE_BYTES = 256 * 1024
_WAITING_PIECES = 4
"""Pieces of an answer that wait for a client; more stay with the engine."""
_MOST_ANNOUNCED = 4096
_LIFE_SECONDS = 10.0


def is_relay_address(address: str) -> bool:
    """Say whether an address is `relay://SERVER/ENGINE`."""
    return _ADDRESS.fullmatch(address) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayedRequest:
    """What an engine is asked.

    Attributes:
        address: `relay://SERVER/ENGINE`.
        path: Path on the engine.
        headers: All headers beside those of the transport.
        body: The body.
    """

    address: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Relays:
    """Knows which servers listen and which requests wait to be fetched. Used from one event loop."""

    def __init__(self) -> None:
        self._token = ""
        self._members: Mapping[str, str] = {}
        self._certificates: dict[str, str] = {}
        self._listening: dict[str, asyncio.Queue[str | None]] = {}
        self._waiting: dict[str, _Carried] = {}

    def admit(self, token: str) -> None:
        """Let servers with a token listen; until then, none."""
        self._token = token

    def check(self, token: str) -> None:
        """Refuse a caller that is no service of the fleet.

        Raises:
            TunefleetError: TOKEN_INVALID.
        """
        if not self._token or not hmac.compare_digest(token.encode(), self._token.encode()):
            raise TunefleetError(
                Reason.TOKEN_INVALID,
                "No token of a service of this fleet was sent.",
                hint="Relays are for server services, which send theirs as `authorization: Bearer TOKEN`.",
            )

    def admit_members(self, members: Mapping[str, str]) -> None:
        """Let servers of other machines listen, and no others; those that may no more are ended.

        Args:
            members: SHA-256 of each certificate to the server's name.
        """
        self._members = dict(members)
        for server, certificate in list(self._certificates.items()):
            if certificate not in members and (queue := self._listening.get(server)) is not None:
                _end(queue)

    def member(self, certificate: str) -> str:
        """Return the server that a certificate, by its SHA-256, is of.

        Raises:
            TunefleetError: CERTIFICATE_INVALID.
        """
        server = self._members.get(certificate, "")
        if not server:
            raise TunefleetError(
                Reason.CERTIFICATE_INVALID,
                "The certificate of this server was revoked, or is not of this fleet.",
                hint="Join again with a new token: tunefleet fleet tokens create --kind server",
            )
        return server

    async def listen(self, server: str, *, certificate: str = "") -> AsyncGenerator[str]:
        """Yield the ids of requests for a server's engines; empty ones are signs of life.

        Args:
            server: Its name.
            certificate: SHA-256 of what it has shown; it listens for as long as that is admitted.
        """
        queue: asyncio.Queue[str | None] = asyncio.Queue(_MOST_ANNOUNCED)
        older = self._listening.get(server)
        if older is not None:
            _end(older)
        self._listening[server] = queue
        self._certificates.pop(server, None)
        if certificate:
            self._certificates[server] = certificate
        try:
            yield ""
            while True:
                try:
                    async with asyncio.timeout(_LIFE_SECONDS):
                        relay_id = await queue.get()
                except TimeoutError:
                    relay_id = ""
                if relay_id is None:
                    return
                yield relay_id
        finally:
            if self._listening.get(server) is queue:
                del self._listening[server]
                self._certificates.pop(server, None)

    async def send(
        self, request: RelayedRequest, *, connect_seconds: float, read_seconds: float
    ) -> RelayedResponse:
        """Announce a request and wait for the head of its answer.

        Raises:
            aiohttp.ClientConnectionError: The server does not listen, does not fetch it, or broke off.
            TimeoutError: The engine is silent.
        """
        parts = urlsplit(request.address)
        queue = self._listening.get(parts.netloc)
        if queue is None or queue.full():
            raise aiohttp.ClientConnectionError(f"server {parts.netloc} does not listen")
        relay_id = uuid.uuid4().hex
        carried = self._waiting[relay_id] = _Carried(request, parts.path.removeprefix("/"), read_seconds)
        try:
            queue.put_nowait(relay_id)
            try:
                async with asyncio.timeout(connect_seconds):
                    await carried.fetched.wait()
            except TimeoutError:
                raise aiohttp.ClientConnectionError(f"server {parts.netloc} does not fetch it") from None
            async with asyncio.timeout(read_seconds):
                return await carried.head()
        except BaseException:
            carried.close()
            raise
        finally:
            self._waiting.pop(relay_id, None)

    async def carry(
        self, incoming: AsyncIterator[pb.CarryRequest], *, server: str = ""
    ) -> AsyncGenerator[pb.CarryResponse]:
        """Serve the call that carries a request: yield the request, take the answer.

        Args:
            incoming: What the server sends.
            server: Whose requests it may carry; empty: those of any server.

        Raises:
            TunefleetError: FIELD_INVALID if nobody waits for it, or messages come out of order.
        """
        opening = await anext(incoming, pb.CarryRequest())
        carried = self._waiting.get(opening.opening.relay_id)
        if carried is not None and server not in ("", carried.server):
            carried = None
        self._waiting.pop(opening.opening.relay_id if carried else "", None)
        if carried is None:
            raise TunefleetError.field("opening.relay_id", "is of no request that waits")
        try:
            carried.fetched.set()
            for message in carried.messages():
                yield message
            await carried.receive(incoming)
        finally:
            carried.break_off()  # nothing, if the answer was whole


class _Carried:
    """One request on its way, and what has come of its answer."""

    def __init__(self, request: RelayedRequest, engine: str, read_seconds: float) -> None:
        self.fetched = asyncio.Event()
        self.read_seconds = read_seconds
        self.server = urlsplit(request.address).netloc
        self._request = request
        self._engine = engine
        self._came: asyncio.Queue[pb.CarryRequest | None] = asyncio.Queue(_WAITING_PIECES)
        self._closed = asyncio.Event()
        self._has_ended = False

    def messages(self) -> list[pb.CarryResponse]:
        """Return the request as messages."""
        request = self._request
        call = pb.EngineCall(engine=self._engine, path=request.path, body_bytes=len(request.body))
        for name, value in request.headers.items():
            call.headers.add(name=name, value=value)
        starts = range(0, len(request.body), _PIECE_BYTES)
        pieces = [pb.CarryResponse(body=request.body[at : at + _PIECE_BYTES]) for at in starts]
        return [pb.CarryResponse(call=call), *pieces]

    async def receive(self, incoming: AsyncIterator[pb.CarryRequest]) -> None:
        """Take the answer as fast as it is read; return when it is whole, broke off or is wanted no more."""
        async with asyncio.TaskGroup() as group:
            taking = group.create_task(self._take(incoming))
            closed = group.create_task(self._closed.wait())
            await asyncio.wait((taking, closed), return_when=asyncio.FIRST_COMPLETED)
            taking.cancel()
            closed.cancel()

    async def _take(self, incoming: AsyncIterator[pb.CarryRequest]) -> None:
        async for message in incoming:
            await self._came.put(message)
            if message.HasField("end"):
                self._has_ended = True
                return

    def break_off(self) -> None:
        """Tell the reader that nothing more comes."""
        if not self._has_ended:
            self._has_ended = True
            while self._came.full():  # what had not been read of a broken answer is not missed
                self._came.get_nowait()
            self._came.put_nowait(None)

    def close(self) -> None:
        """End the call: nobody reads any more."""
        self._closed.set()

    async def head(self) -> RelayedResponse:
        """Wait for the head. Raises aiohttp.ClientConnectionError if it does not come."""
        message = await self.next()
        if message is None or not message.HasField("head"):
            raise aiohttp.ClientConnectionError("the server broke off before the answer")
        return RelayedResponse(self, message.head)

    async def next(self) -> pb.CarryRequest | None:
        """Return the next message; None if there will be none although the answer is not whole."""
        return await self._came.get()


class RelayedResponse:
    """An answer that was carried here; reads like `aiohttp.ClientResponse`."""

    def __init__(self, carried: _Carried, head: pb.AnswerHead) -> None:
        self.status = head.status
        self.reason = head.reason
        self.headers = CIMultiDict((item.name, item.value) for item in head.headers)
        self._carried = carried
        self._is_at_end = False

    @property
    def content(self) -> RelayedResponse:
        """Itself: where the body is read."""
        return self

    async def readany(self) -> bytes:
        """Return the next bytes; empty at the end.

        Raises:
            aiohttp.ClientPayloadError: The answer broke off.
            TimeoutError: The engine is silent.
        """
        if self._is_at_end:
            return b""
        async with asyncio.timeout(self._carried.read_seconds):
            message = await self._carried.next()
        if message is None:
            raise aiohttp.ClientPayloadError("the server broke off in the middle of the answer")
        if message.HasField("end"):
            self._is_at_end = True
            return b""
        return message.body

    def at_eof(self) -> bool:
        """Say whether the end was read."""
        return self._is_at_end

    def close(self) -> None:
        """End the engine's work, unless it has ended."""
        self._carried.close()


def _end(queue: asyncio.Queue[str | None]) -> None:
    while queue.full():
        queue.get_nowait()
    queue.put_nowait(None)
