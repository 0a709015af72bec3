"""An engine that cannot be dialled: its server fetches what it is asked and carries the answer back."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
import grpc.aio
import pytest

from tunefleet.inference.v1 import relay_service_pb2 as pb
from tunefleet.inference.v1.relay_service_pb2_grpc import RelayServiceStub
from tunefleet_core.errors import Reason
from tunefleet_core.rpc import error_from_rpc, open_channel
from tunefleet_services.gateway import AccessLog, GatewaySettings, Route, RouteTable
from tunefleet_services.gateway.inference import serve_inference
from tunefleet_services.gateway.metrics import Metrics
from tunefleet_services.server.relay import Relay

CHAT = "/v1/chat/completions"
SERVICE_TOKEN = "tf-service-token"
DIGEST = hashlib.sha256(b"tf-test-token").hexdigest()
AWAY = "relay://server-1/engine-1"


def routes(*addresses):
    return RouteTable.of(
        [
            Route(
                model="tickets",
                engine_addresses=addresses,
                engine_model="tickets@42",
                project="default",
                create_time=datetime(2026, 1, 1, tzinfo=UTC),
            )
        ],
        [DIGEST],
    )


def chat(**fields):
    return {"model": "tickets", "messages": [{"role": "user", "content": "hello"}], **fields}


@dataclass
class Doors:
    """A gateway with both doors, and the gRPC one's address."""

    http: object
    grpc: str
    session: aiohttp.ClientSession

    def post(self, body, **headers):
        return self.session.post(
            self.http.address + CHAT,
            data=io.BytesIO(json.dumps(body).encode()),
            headers={**self.http.auth, **headers},
        )


@asynccontextmanager
async def doors(gateway, table: RouteTable, settings: GatewaySettings | None = None) -> AsyncIterator[Doors]:
    settings = settings or GatewaySettings(drain_seconds=0.1)
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with (
        gateway(table, settings) as running,
        aiohttp.ClientSession() as session,
        asyncio.TaskGroup() as group,
    ):
        running.holder.relays.admit(SERVICE_TOKEN)
        serving = group.create_task(
            serve_inference(
                running.holder,
                "127.0.0.1:0",
                settings=settings,
                metrics=Metrics(),
                access_log=AccessLog(io.StringIO()),
                on_listening=listening.set_result,
            )
        )
        try:
            yield Doors(running, await listening, session)
        finally:
            serving.cancel()


@asynccontextmanager
async def relaying(door: Doors, *engines: str, server: str = "server-1") -> AsyncIterator[asyncio.Task]:
    """Carry requests to engines `engine-1`, `engine-2`, ... while the block runs."""
    known = {f"engine-{at}": address for at, address in enumerate(engines, 1)}
    relay = Relay(
        door.grpc, server=server, token=SERVICE_TOKEN, engine_address=lambda name: known.get(name, "")
    )
    async with asyncio.TaskGroup() as group:
        running = group.create_task(relay.run())
        while server not in door.http.holder.relays._listening:
            await asyncio.sleep(0.01)
        yield running
        running.cancel()


async def test_a_carried_answer_is_the_engines_byte_for_byte_whole_and_as_a_stream(engine, gateway):
    async with doors(gateway, routes(AWAY)) as door, relaying(door, engine.address):
        for at, is_stream in enumerate((False, True)):
            body = chat(stream=is_stream, fake={"tokens": 500}, pad="ü" * 700_000)
            async with door.post(body, traceparent="00-1-2-01") as answer:
                received = await answer.read()
                assert answer.status == 200
                assert answer.headers["X-Engine"] == "fake"
            seen = (
                await engine.wait_for(lambda seen, at=at: len(seen) > at and seen[at]["state"] == "done")
            )[at]
            assert hashlib.sha256(received).hexdigest() == seen["sent_sha256"]
            sent = {name.lower(): value for name, value in seen["headers"].items()}
            assert "authorization" not in sent
            assert sent["traceparent"] == "00-1-2-01"
        async with door.post(chat(fake={"status": 418})) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (418, "7")


async def test_many_at_once_are_carried_beside_each_other(engine, gateway):
    async with doors(gateway, routes(AWAY)) as door, relaying(door, engine.address):

        async def ask(number: int) -> bytes:
            body = chat(stream=True, fake={"tokens": 20 + number, "interval_ms": 5})
            async with door.post(body) as answer:
                return await answer.read()

        answers = await asyncio.gather(*(ask(number) for number in range(32)))
    assert [answer.count(b"data: {") for answer in answers] == [20 + number for number in range(32)]


@pytest.mark.parametrize(
    "fake", [{"interval_ms": 20, "tokens": 100_000}, {"silent": True}], ids=["mid-stream", "before it began"]
)
async def test_a_client_that_leaves_ends_the_engines_work_through_the_relay(engine, gateway, fake):
    async with doors(gateway, routes(AWAY)) as door, relaying(door, engine.address):

        async def ask() -> None:
            async with door.post(chat(stream=True, fake=fake)) as answer:
                await answer.read()

        asking = asyncio.ensure_future(ask())
        async with asyncio.timeout(20):
            await engine.wait_for(bool)
            await asyncio.sleep(0.1)
            asking.cancel()
            await asyncio.wait([asking])
            await engine.wait_for(lambda seen: seen[0]["state"] == "cancelled")
        async with door.post(chat()) as answer:
            assert answer.status == 200


async def test_a_client_that_reads_nothing_holds_back_its_engine_and_nobody_else(engine, gateway):
    async def sent() -> int:
        return (await asyncio.to_thread(engine.seen))[0]["sent_bytes"]

    async with doors(gateway, routes(AWAY)) as door, relaying(door, engine.address):
        body = chat(stream=True, fake={"tokens": 10_000_000})  # gigabytes, if it were let
        async with door.post(body) as stalled:
            await stalled.content.readany()
            async with asyncio.timeout(60):
                before = -1
                while (now := await sent()) != before:
                    before = now
                    await asyncio.sleep(0.5)
            assert now < 64 << 20  # what the buffers of sockets and of HTTP/2 hold
            async with door.post(chat(stream=True, fake={"tokens": 500})) as answer:
                assert answer.status == 200
                assert (await answer.read()).endswith(b"data: [DONE]\n\n")
            assert await sent() == now
            stalled.close()
        async with asyncio.timeout(30):
            await engine.wait_for(lambda seen: seen[0]["state"] == "cancelled")


@pytest.mark.parametrize("who", ["engine", "server"])
async def test_an_answer_that_breaks_off_is_never_taken_for_whole(engine, gateway, who):
    async with doors(gateway, routes(AWAY)) as door, relaying(door, engine.address) as relay:
        die = {"die_after": 2} if who == "engine" else {}
        body = chat(stream=True, fake={"tokens": 100_000, "interval_ms": 10, **die})
        async with door.post(body, **{"X-Request-Id": "broken"}) as answer:
            await answer.content.readany()
            if who == "server":
                relay.cancel()
            with pytest.raises(aiohttp.ClientPayloadError):
                async with asyncio.timeout(20):
                    await answer.read()
        assert (await door.http.record_of("broken"))["outcome"] == "engine_gone"


async def test_without_its_server_an_engine_is_made_up_for_by_another_or_is_503(engine, gateway):
    async with doors(gateway, routes(AWAY, engine.address)) as door:
        for _ in range(3):
            async with door.post(chat()) as answer:
                assert answer.status == 200
    async with doors(gateway, routes(AWAY)) as door:
        async with door.post(chat()) as answer:
            assert answer.status == 503
            assert (await answer.json())["error"]["code"] == "engine_unavailable"
        async with relaying(door), door.post(chat()) as answer:  # listens, and has no such engine
            assert answer.status == 503


async def test_a_silent_engine_behind_a_relay_is_504(engine, gateway):
    settings = GatewaySettings(idle_seconds=0.3, drain_seconds=0.1)
    async with doors(gateway, routes(AWAY), settings) as door, relaying(door, engine.address):
        async with door.post(chat(stream=True, fake={"silent": True})) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (504, "engine_timeout")
        await engine.wait_for(lambda seen: seen[0]["state"] == "cancelled")


async def test_relays_are_for_services_alone(gateway):
    async with doors(gateway, routes(AWAY)) as door, open_channel(door.grpc) as channel:
        stub = RelayServiceStub(channel)
        for token in ("", "tf-test-token"):  # a user's token opens no relay
            metadata = (("authorization", f"Bearer {token}"),)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.Listen(pb.ListenRequest(server="server-1"), metadata=metadata).read()
            assert error_from_rpc(raised.value, "it").reason is Reason.TOKEN_INVALID
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.Carry(metadata=metadata).read()
            assert error_from_rpc(raised.value, "it").reason is Reason.TOKEN_INVALID
        metadata = (("authorization", f"Bearer {SERVICE_TOKEN}"),)
        call = stub.Carry(metadata=metadata)
        await call.write(pb.CarryRequest(opening=pb.CarryOpening(relay_id="guessed")))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call.read()
        assert error_from_rpc(raised.value, "it").reason is Reason.FIELD_INVALID


async def test_a_newer_listener_of_a_server_takes_its_place(engine, gateway):
    async with doors(gateway, routes(AWAY)) as door, open_channel(door.grpc) as channel:
        metadata = (("authorization", f"Bearer {SERVICE_TOKEN}"),)
        older = RelayServiceStub(channel).Listen(pb.ListenRequest(server="server-1"), metadata=metadata)
        assert (await older.read()).relay_id == ""
        async with relaying(door, engine.address):
            async with asyncio.timeout(10):
                assert await older.read() is grpc.aio.EOF
            async with door.post(chat()) as answer:
                assert answer.status == 200
