"""What the gateway's integration tests share: real engine processes (fakes), a real gateway."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tunefleet_services.gateway import (
    AccessLog,
    GatewaySettings,
    Route,
    RouteTable,
    RouteTableHolder,
    serve_gateway,
)
from tunefleet_services.gateway.tracing import Tracing

TOKEN = "tf-test-token"


@dataclass
class EngineProcess:
    """One FakeEngine."""

    process: subprocess.Popen[str]
    address: str

    def seen(self) -> list[dict[str, Any]]:
        with urlopen(f"{self.address}/fake/seen", timeout=10) as answer:
            return json.load(answer)

    async def wait_for(self, claim: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        while True:
            seen = await asyncio.to_thread(self.seen)
            if claim(seen):
                return seen
            await asyncio.sleep(0.02)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(timeout=10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


@dataclass
class RunningGateway:
    """A gateway that serves in the test's own loop."""

    address: str
    holder: RouteTableHolder
    log: io.StringIO

    @property
    def openai_url(self) -> str:
        return f"{self.address}/v1"

    @property
    def auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {TOKEN}"}

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    async def record_of(self, request_id: str) -> dict[str, Any]:
        while True:
            for record in self.records():
                if record["request_id"] == request_id:
                    return record
            await asyncio.sleep(0.01)


@pytest.fixture
def start_engine() -> Iterator[Callable[..., EngineProcess]]:
    engines: list[EngineProcess] = []

    def start(*options: str) -> EngineProcess:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fake_engine.py")), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        engine = EngineProcess(process=process, address=process.stdout.readline().strip())
        engines.append(engine)
        assert engine.address.startswith("http://")
        return engine

    yield start
    for engine in engines:
        engine.end()


@pytest.fixture
def engine(start_engine: Callable[[], EngineProcess]) -> EngineProcess:
    return start_engine()


@pytest.fixture
def table() -> Callable[..., RouteTable]:
    def build(**addresses: str) -> RouteTable:
        """Route model `a_b` to `addresses`; inside the engine it is `a_b@42`."""
        routes = [
            Route(
                model=model,
                engine_addresses=(address,),
                engine_model=f"{model}@42",
                project="default",
                create_time=datetime(2026, 1, 1, tzinfo=UTC),
            )
            for model, address in addresses.items()
        ]
        return RouteTable.of(routes, [hashlib.sha256(TOKEN.encode()).hexdigest()])

    return build


@pytest.fixture
def gateway() -> Callable[..., AbstractAsyncContextManager[RunningGateway]]:
    @asynccontextmanager
    async def run(
        routes: RouteTable | None,
        settings: GatewaySettings | None = None,
        tracing: Tracing | None = None,
    ) -> AsyncIterator[RunningGateway]:
        holder = RouteTableHolder(routes)
        log = io.StringIO()
        listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(
                serve_gateway(
                    holder,
                    settings=settings or GatewaySettings(drain_seconds=0.1),
                    access_log=AccessLog(log),
                    tracing=tracing,
                    on_listening=listening.set_result,
                )
            )
            try:
                yield RunningGateway(address=await listening, holder=holder, log=log)
            finally:
                serving.cancel()

    return run
