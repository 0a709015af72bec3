"""The real gateway process: its table comes from the control stream and outlives it."""

from __future__ import annotations

import asyncio
import hashlib
import sys
import urllib.error
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from engine_questions import ask, models
from fake_coordinator import FakeCoordinator, running_coordinator
from service_process import ServiceProcess

from tunefleet.fleet.v1.fleet_pb2 import DeploymentAssignment, DesiredSet, Route, ServiceKind
from tunefleet.inference.v1.inference_service_pb2 import ChatRequest
from tunefleet.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.rpc import open_channel
from tunefleet_services.gateway.service import table_of

TOKEN = "tf-user-token"
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()


@pytest.fixture
async def gateway(coordinator: FakeCoordinator, tmp_path: Path) -> AsyncIterator[ServiceProcess]:
    state = tmp_path / "gateway-state"
    state.mkdir()
    process = ServiceProcess("tunefleet_services.gateway", port=coordinator.port, state=state)
    await process.start("--name", "gateway", "--host", "127.0.0.1", "--port", "0")
    try:
        yield process
    finally:
        await process.clean_up()


async def gateway_address(coordinator: FakeCoordinator) -> str:
    def hello() -> str:
        kind = ServiceKind.SERVICE_KIND_GATEWAY
        found = [item.service for item in coordinator.hellos if item.service.kind == kind]
        return found[0].labels["address"] if found else ""

    await coordinator.until(lambda: bool(hello()), "the gateway never attached")
    return hello()


async def until_models(address: str, expected: set[str] | int) -> None:
    """Wait until the gateway shows exactly these models, or refuses with a status."""
    seen: object = None
    for _ in range(200):
        try:
            seen = await asyncio.to_thread(models, address, token=TOKEN)
        except urllib.error.HTTPError as error:
            with error:
                seen = error.code
        if seen == expected:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"the gateway shows {seen}, not {expected}")


async def first_refusal(address: str) -> int:
    """Return the status for a token nobody granted, once the gateway has heard of tokens at all."""
    async with asyncio.timeout(60):
        while True:
            with pytest.raises(urllib.error.HTTPError) as refused:
                await asyncio.to_thread(models, address, token=TOKEN)
            refused.value.close()
            if refused.value.code != 503:
                return refused.value.code
            await asyncio.sleep(0.05)


async def test_routes_and_tokens_come_with_the_desired_set_and_stay_without_a_coordinator(
    tmp_path: Path, base: BaseFacts, deploy: type[DeploymentAssignment]
) -> None:
    async with running_coordinator(tmp_path / "store", 2.0) as coordinator:
        state = tmp_path / "state"
        state.mkdir()
        server = ServiceProcess("tunefleet_services.server", port=coordinator.port, state=state)
        gateway = ServiceProcess("tunefleet_services.gateway", port=coordinator.port, state=state)
        await server.start("--lease-seconds", "2")
        await gateway.start("--port", "0")
        try:
            plain = deploy("d-base", base)
            await coordinator.want(deployments=[plain])
            engine = (await coordinator.until_state("d-base", "READY")).engine_address
            address = await gateway_address(coordinator)
            assert await first_refusal(address) == 401

            route = Route(model="mine", engine_address=engine, engine_model=plain.engine_model)
            await coordinator.want(deployments=[plain], routes=[route], token_digests=[DIGEST])
            await until_models(address, {"mine"})
            assert await asyncio.to_thread(ask, address, "mine", "ping", token=TOKEN) == "ping"

            await coordinator.close()
            await asyncio.sleep(3)  # longer than the lease term: the session is surely gone
            assert await asyncio.to_thread(ask, address, "mine", "still there", token=TOKEN) == "still there"
        finally:
            await gateway.clean_up()
            await server.clean_up()


async def test_grpc_answer_goes_on_when_the_coordinator_dies_in_the_middle(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    engine = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).parents[1] / "gateway" / "fake_engine.py"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert engine.stdout is not None
    engine_address = (await engine.stdout.readline()).decode().strip()
    async with running_coordinator(tmp_path / "store", 2.0) as coordinator:
        gateway = ServiceProcess("tunefleet_services.gateway", port=coordinator.port, state=state)
        await gateway.start("--port", "0")
        try:
            address = await gateway_address(coordinator)
            endpoints = coordinator.hellos[0].service.endpoints
            assert endpoints["openai"] == f"{address}/v1"
            route = Route(model="mine", engine_address=engine_address, engine_model="x")
            await coordinator.want(routes=[route], token_digests=[DIGEST])
            await until_models(address, {"mine"})
            request = ChatRequest(model="mine")
            asked = 'fake:{"tokens": 60, "interval_ms": 50}'
            request.messages.add(role="user").content.add(text=asked)
            async with open_channel(endpoints["inference"]) as channel:
                stub = InferenceServiceStub(channel)
                call = stub.Chat(request, metadata=(("authorization", f"Bearer {TOKEN}"),), timeout=60)
                answers = aiter(call)
                assert (await anext(answers)).text
                await coordinator.close()
                rest = [item async for item in answers]
            assert len(rest) == 60  # 59 pieces more, and the last message
            assert rest[-1].finish_reason == "stop"
        finally:
            await gateway.clean_up()
            engine.kill()
            await engine.communicate()


async def test_a_new_table_replaces_the_old_one_and_a_bad_route_costs_only_itself(
    coordinator: FakeCoordinator, gateway: ServiceProcess
) -> None:
    address = await gateway_address(coordinator)

    def route(model: str, engine: str) -> Route:
        return Route(model=model, engine_address=engine, engine_model="x")

    good = route("good", "http://127.0.0.1:9")
    await coordinator.want(routes=[route("bad", "not an address"), good], token_digests=[DIGEST])
    await until_models(address, {"good"})
    await coordinator.want(routes=[route("next", "http://127.0.0.1:9")], token_digests=[DIGEST])
    await until_models(address, {"next"})
    await coordinator.want(routes=[], token_digests=[])
    await until_models(address, 401)  # nobody's token is known any more


def test_table_keeps_the_time_a_route_became_ready() -> None:
    wire = Route(model="m", engine_address="http://127.0.0.1:1", engine_model="e", project="p")
    wire.create_time.FromJsonString("2026-01-02T03:04:05Z")
    route = table_of(DesiredSet(routes=[wire], token_digests=[DIGEST])).routes["m"]
    assert route.create_time.isoformat() == "2026-01-02T03:04:05+00:00"
    assert route.project == "p"
