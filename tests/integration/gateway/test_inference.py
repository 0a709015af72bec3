"""The gRPC door of a gateway, with real engine processes (fakes) behind it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest

from tunefleet.inference.v1 import inference_service_pb2 as pb
from tunefleet.inference.v1 import inference_service_pb2_grpc as inference_grpc
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import error_from_rpc, open_channel
from tunefleet_services.gateway import AccessLog, GatewaySettings, Grant, RouteTable, RouteTableHolder
from tunefleet_services.gateway.inference import serve_inference
from tunefleet_services.gateway.metrics import Metrics

TOKEN = "tf-test-token"  # the one that the fixture `table` knows
BEARER = (("authorization", f"Bearer {TOKEN}"),)


@dataclass
class Door:
    stub: Any
    holder: RouteTableHolder
    metrics: Metrics
    log: io.StringIO

    async def chat(self, model: str = "tickets", said: str = "hello", **fields: Any) -> list[pb.ChatResponse]:
        return [item async for item in self.call(model, said, **fields)]

    def call(self, model: str, said: str, *, metadata: Any = BEARER, **fields: Any) -> Any:
        request = pb.ChatRequest(model=model, **fields)
        request.messages.add(role="user").content.add(text=said)
        return self.stub.Chat(request, metadata=metadata, timeout=30)

    async def refused(self, asked: Any) -> TunefleetError:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await asked
        error = error_from_rpc(raised.value, "the gateway")
        assert error.code == raised.value.code().name
        assert error.hint
        return error


@asynccontextmanager
async def open_door(routes: RouteTable, settings: GatewaySettings | None = None) -> AsyncGenerator[Door]:
    holder, metrics, log = RouteTableHolder(routes), Metrics(), io.StringIO()
    access_log = AccessLog(log)
    access_log.start()
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(
            serve_inference(
                holder,
                "127.0.0.1:0",
                settings=settings or GatewaySettings(drain_seconds=0.1),
                metrics=metrics,
                access_log=access_log,
                on_listening=listening.set_result,
            )
        )
        try:
            async with open_channel(await listening) as channel:
                yield Door(inference_grpc.InferenceServiceStub(channel), holder, metrics, log)
        finally:
            serving.cancel()
    access_log.stop()


async def test_chat_comes_piece_by_piece_and_ends_with_reason_and_usage(
    engine: Any, table: Callable[..., RouteTable]
) -> None:
    async with open_door(table(tickets=engine.address)) as door:
        answers = await door.chat(max_tokens=8, temperature=0.0, top_p=0.5, seed=7, stop=["END"])
        *pieces, last = answers
        assert [piece.text for piece in pieces][:3] == ["Grüße", " from", " a"]
        assert len(pieces) == 8
        assert not any(piece.finish_reason for piece in pieces)
        assert (last.text, last.finish_reason) == ("", "stop")
        assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 8)
        body = json.loads(engine.seen()[0]["body"])
        assert body["model"] == "tickets@42"  # the engine's own name
        assert body["messages"] == [{"role": "user", "content": "hello"}]
        assert (body["max_tokens"], body["temperature"], body["top_p"], body["seed"]) == (8, 0.0, 0.5, 7)
        assert body["stop"] == ["END"]
        await door.chat()
        plain = json.loads(engine.seen()[1]["body"])
        assert not {"max_tokens", "temperature", "top_p", "seed", "stop"} & set(
            plain
        )  # the engine's defaults


async def test_cancel_ends_the_generation_in_the_engine(
    engine: Any, table: Callable[..., RouteTable]
) -> None:
    async with open_door(table(tickets=engine.address)) as door:
        call = door.call("tickets", 'fake:{"tokens": 100000, "interval_ms": 20}')
        assert (await call.read()).text
        assert door.metrics.in_flight == 1
        call.cancel()
        async with asyncio.timeout(30):
            await engine.wait_for(lambda seen: seen[0]["state"] == "cancelled")
            while door.metrics.in_flight:
                await asyncio.sleep(0.01)


async def test_engine_that_dies_in_the_middle_is_no_complete_answer(
    engine: Any, table: Callable[..., RouteTable]
) -> None:
    async with open_door(table(tickets=engine.address)) as door:
        call = door.call("tickets", 'fake:{"tokens": 50, "die_after": 2}')
        texts: list[str] = []

        async def read() -> None:
            async for piece in call:
                texts.append(piece.text)

        error = await door.refused(read())
        assert error.reason is Reason.UNAVAILABLE
        assert texts == ["Grüße", " from"]
        assert (await door.refused(door.chat())).reason is Reason.UNAVAILABLE  # nobody is there now


@pytest.mark.parametrize(
    ("status", "reason"),
    [(400, Reason.FIELD_INVALID), (503, Reason.UNAVAILABLE), (500, Reason.BACKEND_FAILED)],
)
async def test_refusal_of_an_engine_keeps_its_words(
    engine: Any, table: Callable[..., RouteTable], status: int, reason: Reason
) -> None:
    async with open_door(table(tickets=engine.address)) as door:
        error = await door.refused(door.chat(said=json.dumps({"status": status}).join(("fake:", ""))))
        assert error.reason is reason
        assert "the engine says no" in error.message


async def test_door_is_closed_to_strangers_and_to_other_projects(
    engine: Any, table: Callable[..., RouteTable]
) -> None:
    routes = table(tickets=engine.address)
    async with open_door(routes) as door:
        for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", TOKEN),)):
            asked = door.call("tickets", "hello", metadata=metadata).read()
            assert (await door.refused(asked)).reason is Reason.TOKEN_INVALID
        digest = hashlib.sha256(TOKEN.encode()).hexdigest()
        everything = list(routes.routes.values())
        door.holder.replace_routes(RouteTable.of(everything, [], [(digest, Grant(project="research"))]))
        assert (await door.refused(door.chat())).reason is Reason.DEPLOYMENT_NOT_FOUND
        door.holder.replace_routes(RouteTable.of(everything, [], [(digest, Grant(expire_time=1.0))]))
        assert (await door.refused(door.chat())).reason is Reason.TOKEN_INVALID
        assert engine.seen() == []  # nothing of it reached the engine


async def test_wrong_requests_are_refused_before_the_engine_sees_them(
    engine: Any, table: Callable[..., RouteTable]
) -> None:
    async with open_door(table(tickets=engine.address)) as door:
        for fields in (
            {"max_tokens": 0},
            {"temperature": float("nan")},
            {"temperature": -1.0},
            {"top_p": 0.0},
            {"top_p": float("inf")},
            {"stop": [""]},
            {"model": ""},
        ):
            assert (await door.refused(door.chat(**fields))).reason is Reason.FIELD_INVALID
        empty = door.stub.Chat(pb.ChatRequest(model="tickets"), metadata=BEARER, timeout=10).read()
        assert (await door.refused(empty)).reason is Reason.FIELD_INVALID
        assert (await door.refused(door.chat(model="none"))).reason is Reason.DEPLOYMENT_NOT_FOUND
        assert engine.seen() == []


async def test_full_gateway_says_so(engine: Any, table: Callable[..., RouteTable]) -> None:
    settings = GatewaySettings(drain_seconds=0.1, max_in_flight=1)
    async with open_door(table(tickets=engine.address), settings) as door:
        call = door.call("tickets", 'fake:{"tokens": 100000, "interval_ms": 20}')
        await call.read()
        assert (await door.refused(door.chat())).reason is Reason.UNAVAILABLE
        call.cancel()


async def test_tokens_are_told_by_engines_that_can(
    start_engine: Callable[..., Any], table: Callable[..., RouteTable]
) -> None:
    engine = start_engine()
    async with open_door(table(tickets=engine.address)) as door:
        request = pb.TokenizeRequest(model="tickets", text="ab")
        told = await door.stub.Tokenize(request, metadata=BEARER, timeout=10)
        assert list(told.token_ids) == [97, 98]
        request = pb.TokenizeRequest(model="tickets")
        request.conversation.messages.add(role="user").content.add(text="c")
        told = await door.stub.Tokenize(request, metadata=BEARER, timeout=10)
        assert list(told.token_ids) == [99]
        nothing = door.stub.Tokenize(pb.TokenizeRequest(model="tickets"), metadata=BEARER, timeout=10)
        assert (await door.refused(nothing)).reason is Reason.FIELD_INVALID
    without = start_engine("--no-tokenize")
    async with open_door(table(tickets=without.address)) as door:
        asked = door.stub.Tokenize(pb.TokenizeRequest(model="tickets", text="a"), metadata=BEARER, timeout=10)
        error = await door.refused(asked)
        assert error.reason is Reason.CAPABILITY_UNSUPPORTED


async def test_calls_are_logged_and_counted(engine: Any, table: Callable[..., RouteTable]) -> None:
    async with open_door(table(tickets=engine.address)) as door:
        await door.chat()
        await door.refused(door.chat(model="none"))
    records = [json.loads(line) for line in door.log.getvalue().splitlines()]
    assert [(item["method"], item["model"], item["status"]) for item in records] == [
        ("GRPC", "tickets", 200),
        ("GRPC", "none", 404),
    ]
    assert TOKEN not in door.log.getvalue()
