"""ServerLifecycle and Adapters: engines that start, die and take adapters."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import psutil
import pytest

from tunefleet.backend.v1 import backend_service_pb2 as pb
from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.backend.v1.server_pb2 import AdapterOrder, Engine, EngineState
from tunefleet_core.testing.conformance.bench import Bench
from tunefleet_core.testing.conformance.calls import Refused
from tunefleet_core.testing.conformance.cases import Suite, case
from tunefleet_core.testing.conformance.identity import TIMES
from tunefleet_core.testing.conformance.openai_http import chat_body, get, post
from tunefleet_core.testing.conformance.profile import Transport

__all__ = ["Adapters", "ServerLifecycle"]

_SERVE = Capability.CAPABILITY_SERVE
_SWAP = (_SERVE, Capability.CAPABILITY_LORA_HOTSWAP)
_ENDED = EngineState.ENGINE_STATE_ENDED


class ServerLifecycle(Suite):
    """An engine from start to end."""

    @case(_SERVE)
    async def test_an_engine_becomes_ready_and_answers(self, bench: Bench) -> None:
        engine = await bench.engine()
        assert engine.address.startswith("http://127.0.0.1:"), "an engine is reached on loopback alone"
        answer = await post(engine.address, chat_body("tiny", max_tokens=4))
        assert answer.status == 200, answer

    @case(_SERVE)
    async def test_starting_an_engine_again_is_the_same_engine(self, bench: Bench) -> None:
        engine = await bench.engine()
        order = bench.orders.engine()
        order.engine = engine.engine
        for _ in range(TIMES):
            again = (await bench.call("StartEngine", pb.StartEngineRequest(order=order))).engine
            assert (again.address, again.state) == (engine.address, engine.state)

    @case(_SERVE)
    async def test_an_engine_lists_its_models(self, bench: Bench) -> None:
        answer = await get((await bench.engine()).address, "/v1/models")
        assert "tiny" in [model["id"] for model in answer.json()["data"]]

    @case(_SERVE, is_error=True)
    async def test_a_stopped_engine_is_gone_and_may_be_stopped_again(self, bench: Bench) -> None:
        engine = await bench.engine_to_end()
        request = pb.StopEngineRequest(engine=engine.engine)
        states = [(await bench.call("StopEngine", request)).engine.state for _ in range(TIMES)]
        assert states == [_ENDED] * TIMES
        with pytest.raises(ConnectionError):
            await get(engine.address, "/v1/models")

    @case(_SERVE, is_error=True, transports=(Transport.OBJECT, Transport.WORKER))
    async def test_an_engine_that_dies_is_told_with_its_reason(self, bench: Bench) -> None:
        engine = await bench.engine_to_end()
        await asyncio.to_thread(_kill_listener, engine.address)
        while (ended := await bench.get_engine(engine.engine)).state != _ENDED:
            await asyncio.sleep(0.05)
        assert ended.error.message
        await bench.call("StopEngine", pb.StopEngineRequest(engine=engine.engine))

    @case(_SERVE, is_error=True)
    async def test_an_engine_without_a_base_does_not_get_ready(self, bench: Bench) -> None:
        if not bench.profile.reads_base:
            pytest.skip("the profile says that its engine reads no base")
        order = bench.orders.engine()
        order.base_path = str(bench.folder / "no-such-base")
        try:
            await bench.call("StartEngine", pb.StartEngineRequest(order=order))
        except Refused:
            return  # refused at once is as good
        ended = await bench.settled(order.engine)
        assert ended.state == _ENDED
        assert ended.error.message


class Adapters(Suite):
    """Adapters that come and go while the engine serves."""

    @case(*_SWAP)
    async def test_a_loaded_adapter_is_listed_and_answers(self, bench: Bench) -> None:
        lab = await _Lab.make(bench)
        engine = await lab.load("first@1")
        assert "first@1" in engine.adapters
        assert "first@1" in await lab.models()
        answer = await post(engine.address, chat_body("first@1", max_tokens=4))
        assert answer.status == 200, answer

    @case(*_SWAP)
    async def test_loading_and_dropping_may_be_repeated(self, bench: Bench) -> None:
        lab = await _Lab.make(bench)
        loaded = [await lab.load("again@1") for _ in range(TIMES)]
        assert list(loaded[-1].adapters).count("again@1") == 1
        dropped = [await lab.drop("again@1") for _ in range(TIMES)]
        assert "again@1" not in dropped[-1].adapters

    @case(*_SWAP)
    async def test_an_adapter_changes_what_is_answered(self, bench: Bench) -> None:
        lab = await _Lab.make(bench)
        await lab.load("changed@1")
        texts = [await lab.answer("changed@1"), await lab.answer("changed@1"), await lab.answer("tiny")]
        assert texts[0] == texts[1], "a greedy answer is not the same twice"
        assert texts[0] != texts[2], "the adapter answers as its base does"

    @case(*_SWAP, is_error=True)
    async def test_a_dropped_adapter_does_not_answer(self, bench: Bench) -> None:
        lab = await _Lab.make(bench)
        await lab.load("dropped@1")
        engine = await lab.drop("dropped@1")
        answer = await post(engine.address, chat_body("dropped@1", max_tokens=4))
        assert answer.status == 404, "a request must never be answered by another model"
        assert "dropped@1" not in await lab.models()

    @case(*_SWAP, is_error=True)
    async def test_dropping_what_was_never_loaded_succeeds(self, bench: Bench) -> None:
        engine = await (await _Lab.make(bench)).drop("never-loaded@1")
        assert engine.state == EngineState.ENGINE_STATE_READY

    @case(*_SWAP, is_error=True)
    async def test_a_folder_that_is_no_adapter_changes_nothing(self, bench: Bench) -> None:
        lab = await _Lab.make(bench)
        await lab.load("kept@1")
        before = await lab.answer("kept@1")
        order = AdapterOrder(engine=lab.engine.engine, adapter="rubbish@1", path=str(bench.folder))
        for _ in range(TIMES):
            refused = await bench.refusal("LoadAdapter", pb.LoadAdapterRequest(order=order))
            assert (refused.code, refused.reasons) == ("FAILED_PRECONDITION", ["BACKEND_FAILED"]), refused
        assert "rubbish@1" not in await lab.models()
        assert await lab.answer("kept@1") == before


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lab:
    bench: Bench
    engine: Engine

    @classmethod
    async def make(cls, bench: Bench) -> _Lab:
        return cls(bench=bench, engine=await bench.engine())

    async def load(self, name: str) -> Engine:
        orders = self.bench.orders
        order = AdapterOrder(
            engine=self.engine.engine,
            adapter=name,
            path=str(orders.adapter()),
            chat_template=orders.template().text,
            stop_token_ids=orders.template().stop_token_ids,
        )
        return (await self.bench.call("LoadAdapter", pb.LoadAdapterRequest(order=order))).engine

    async def drop(self, name: str) -> Engine:
        request = pb.UnloadAdapterRequest(engine=self.engine.engine, adapter=name)
        return (await self.bench.call("UnloadAdapter", request)).engine

    async def models(self) -> list[str]:
        answer = await get(self.engine.address, "/v1/models")
        return [str(model["id"]) for model in answer.json()["data"]]

    async def answer(self, model: str) -> str:
        answer = await post(self.engine.address, chat_body(model, max_tokens=8))
        assert answer.status == 200, answer
        return answer.text()


def _kill_listener(address: str) -> None:
    """Kill the process that listens on an address."""
    port = int(address.rpartition(":")[2])
    for process in psutil.process_iter():
        try:
            ports = {item.laddr.port for item in process.net_connections("tcp") if item.status == "LISTEN"}
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
        if port in ports:
            process.kill()
            return
    raise AssertionError(f"nothing listens on {address}")
