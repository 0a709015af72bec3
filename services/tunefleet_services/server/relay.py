"""Carry requests from a gateway to the engines of this server, for a server that cannot be dialled.

One call listens; each announced request is a call of its own, fetched, asked of the engine, and
answered piece by piece. Every message waits until gRPC's flow control lets it through, so
an engine is read as fast as the client at the other end reads, and no faster.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncGenerator, Callable

import aiohttp
import grpc.aio
from yarl import URL

from tunefleet.inference.v1 import relay_service_pb2 as pb
from tunefleet.inference.v1 import relay_service_pb2_grpc as relay_grpc
from tunefleet_core.rpc import ChannelTls, error_from_rpc, open_channel

__all__ = ["Relay"]

_LOG = logging.getLogger(__name__)
_SILENCE_SECONDS = 30.0  # three signs of life were missed
_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 2.0
_PIECE_BYTES = 256 * 1024
_SEND_WHOLE_BYTES = 1024 * 1024
# The last is what grpc.aio raises for a message that is written after the other side has ended the call.
_BREAKS_OFF = (grpc.aio.AioRpcError, aiohttp.ClientError, OSError, asyncio.InvalidStateError)


class Relay:
    """Serves one gateway from the inside. `run` goes on until cancelled.

    Args:
        gateway: The gateway's gRPC door, `host:port`.
        server: Name of this server, as in the addresses of its engines.
        token: The service's token; empty with a certificate.
        tls: Returns what secures the channel, as it is now; None: it stays on this machine.
        engine_address: Returns the address of an engine of this server by its name; empty: there is none.
    """

    def __init__(
        self,
        gateway: str,
        *,
        server: str,
        token: str,
        tls: Callable[[], ChannelTls] | None = None,
        engine_address: Callable[[str], str],
    ) -> None:
        self._gateway = gateway
        self._server = server
        self._tls = tls
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._engine_address = engine_address

    async def run(self) -> None:
        """Listen, again and again, and carry what is announced."""
        wait = _FIRST_WAIT_SECONDS
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0)
        async with (
            open_channel(self._gateway, None if self._tls is None else self._tls()) as channel,
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None),  # the gateway knows how long its client waits
            ) as session,
            asyncio.TaskGroup() as group,
        ):
            stub: relay_grpc.RelayServiceAsyncStub = relay_grpc.RelayServiceStub(channel)  # pyright: ignore[reportAssignmentType]  # one class, two faces
            while True:
                try:
                    async for relay_id in self._announced(stub):
                        wait = _FIRST_WAIT_SECONDS
                        if relay_id:
                            group.create_task(self._carry(stub, session, relay_id))
                except grpc.aio.AioRpcError as error:
                    typed = error_from_rpc(error, f"The gateway at {self._gateway}")
                    _LOG.log(
                        logging.DEBUG if error.code() is grpc.StatusCode.UNAVAILABLE else logging.WARNING,
                        "no relay to %s, next try in %.1f s: %s",
                        self._gateway,
                        wait,
                        typed.message,
                    )
                except TimeoutError:
                    _LOG.warning("the gateway at %s is silent", self._gateway)
                await asyncio.sleep(wait)
                wait = min(wait * 2, _LONGEST_WAIT_SECONDS)

    async def _announced(self, stub: relay_grpc.RelayServiceAsyncStub) -> AsyncGenerator[str]:
        call = stub.Listen(pb.ListenRequest(server=self._server), metadata=self._metadata)
        try:
            while True:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    message = await call.read()
                if not isinstance(message, pb.ListenResponse):  # the end
                    return
                yield message.relay_id
        finally:
            call.cancel()

    async def _carry(
        self, stub: relay_grpc.RelayServiceAsyncStub, session: aiohttp.ClientSession, relay_id: str
    ) -> None:
        call = stub.Carry(metadata=self._metadata)
        try:
            await call.write(pb.CarryRequest(opening=pb.CarryOpening(relay_id=relay_id)))
            asked = await call.read()
            if not isinstance(asked, pb.CarryResponse):
                return
            body = bytearray()
            while len(body) < asked.call.body_bytes:
                message = await call.read()
                if not isinstance(message, pb.CarryResponse):
                    return
                body += message.body
            async with asyncio.TaskGroup() as group:
                answering = group.create_task(self._answer(call, session, asked.call, bytes(body)))
                left = group.create_task(_read_to_end(call))
                await asyncio.wait((answering, left), return_when=asyncio.FIRST_COMPLETED)
                answering.cancel()  # if it has not ended: nobody reads the answer any more
                left.cancel()
        except* _BREAKS_OFF as errors:
            _LOG.debug("request %s broke off: %s", relay_id, errors.exceptions[0])
        except* Exception:  # of one request: the others, and the server, go on
            _LOG.exception("request %s failed", relay_id)
        finally:
            call.cancel()  # without an end, if there was none: the gateway then knows that it broke off

    async def _answer(
        self,
        call: grpc.aio.StreamStreamCall[pb.CarryRequest, pb.CarryResponse],
        session: aiohttp.ClientSession,
        asked: pb.EngineCall,
        body: bytes,
    ) -> None:
        address = self._engine_address(asked.engine)
        if not address:
            return  # it has ended since: for the gateway an engine that is not there
        headers = {item.name: item.value for item in asked.headers}
        url = URL(address).with_path(asked.path)
        # aiohttp copies longer bytes in one go on the loop; a file it sends in pieces.
        data = body if len(body) <= _SEND_WHOLE_BYTES else io.BytesIO(body)
        async with session.post(url, data=data, headers=headers, allow_redirects=False) as answer:
            head = pb.AnswerHead(status=answer.status, reason=answer.reason or "")
            for name, value in answer.headers.items():
                head.headers.add(name=name, value=value)
            await call.write(pb.CarryRequest(head=head))
            while chunk := await answer.content.readany():
                for at in range(0, len(chunk), _PIECE_BYTES):
                    await call.write(pb.CarryRequest(body=chunk[at : at + _PIECE_BYTES]))
            await call.write(pb.CarryRequest(end=pb.AnswerEnd()))
        await call.done_writing()
        await call.code()  # the gateway has taken all of it


async def _read_to_end(call: grpc.aio.StreamStreamCall[pb.CarryRequest, pb.CarryResponse]) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass
