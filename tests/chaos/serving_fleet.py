"""A fleet of two servers with an echo engine each, and streams of what they serve."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil
from chaos_fleet import TEST_MARKER, ChaosFleet

from tunefleet.deployment.v1.deployment_pb2 import DeploymentSpec, DeploymentState
from tunefleet_client import Client
from tunefleet_core.worker.marker import marked_processes

__all__ = [
    "AGAIN_SECONDS",
    "BASE",
    "HANG_SECONDS",
    "STREAMS",
    "ServingFleet",
    "Streams",
    "opened_session",
    "serves_again",
    "streaming",
    "streaming_of",
]

BASE = Path(__file__).parents[2] / "examples" / "tiny_base" / "model"
STREAMS = 16
"""Of each of the two deployments."""
_WORDS = " ".join(f"word{at}" for at in range(60))
_PACE_MS = 40
HANG_SECONDS = 60.0
AGAIN_SECONDS = 60.0
"""A bound for a machine that is busy; the promise, some seconds, is measured and printed."""


class ServingFleet(ChaosFleet):
    """`up` without trainers, `server-2` beside it, and the deployments `one` and `two`."""

    gateway = ""
    inference = ""

    async def start(self) -> None:
        """Start everything and wait until both deployments serve."""
        bounds = ("--max-body-mib", "1", "--requests-at-once", "64")
        await self.spawn(
            "up",
            "-m",
            "tunefleet_cli",
            "up",
            "--plain",
            "--state",
            str(self.state),
            "--trainers",
            "0",
            *bounds,
        )
        await self.until(lambda: "Fleet ready" in self.log("up"), "the fleet is ready", 90)
        endpoints = json.loads((self.state / "endpoints.json").read_text())
        self.user_address, self.service_address = endpoints["user"], endpoints["service"]
        self.gateway = endpoints["gateway"]
        self.inference = endpoints["inference"]
        await self.start_second_server()
        await self.until(self._has_second_server, "server-2 is attached", 60)
        async with self.client() as client:
            await client.fleet.drain("services/server-2")
            await self._deploy(client, "one", "services/server")
            await client.fleet.undrain("services/server-2")
            await client.fleet.drain("services/server")
            await self._deploy(client, "two", "services/server-2")
            await client.fleet.undrain("services/server")
        async with opened_session(self) as session:
            for name in ("one", "two"):
                await serves_again(self, session, name, 0.0)  # the gateway has heard of it

    async def start_second_server(self) -> None:
        """Start the server that carries its requests by a relay."""
        await self.spawn(
            "server-2",
            *("-m", "tunefleet_services.server", "--address", self.service_address, "--name", "server-2"),
            *("--token-file", str(self.state / "service.token"), "--state", str(self.state)),
            *("--relay", self.inference),
        )

    async def stop_serving(self) -> None:
        """Take both deployments down: an engine is else left, for a lease, to be adopted."""
        async with self.client() as client:
            for name in ("one", "two"):
                await client.deployments.delete(name)

        await self.until(
            lambda: not list(self.state.glob("services/*/engines/*/engine.json")), "no engine", 30
        )

    def _engines(self) -> list[Path]:
        return list(self.state.glob("services/*/engines/*/engine.json"))

    async def _has_second_server(self) -> bool:
        return "server-2" in await self.services()

    async def _deploy(self, client: Client, name: str, service: str) -> None:
        created = await client.deployments.create(
            DeploymentSpec(model=str(BASE), engine="echo"), deployment_id=name
        )

        async def is_ready() -> bool:
            found = await client.deployments.get(created.name)
            assert found.state != DeploymentState.DEPLOYMENT_STATE_FAILED, found.error
            assert found.service in ("", service)
            if found.state != DeploymentState.DEPLOYMENT_STATE_READY:
                return False
            assert found.engine_address.startswith("relay://server-2/") is (name == "two")
            return True

        await self.until(is_ready, f"{name} is ready", 60)

    def process_of(self, *words: str) -> psutil.Process:
        """Return the one process of the fleet whose command line holds all of these words."""
        found: list[psutil.Process] = []
        for process in marked_processes(self.mark, variable=TEST_MARKER):
            try:
                line = process.cmdline()
            except psutil.NoSuchProcess:
                continue
            if all(word in line for word in words):
                found.append(process)
        (process,) = found
        return process

    def engine_of(self, service: str) -> psutil.Process:
        """Return the engine of a server."""
        (record,) = self.state.glob(f"services/{service}/engines/*/engine.json")
        (engine,) = psutil.Process(json.loads(record.read_text())["host"]["pid"]).children()
        return engine

    def engines_with(self, max_context_tokens: int) -> list[psutil.Process]:
        """Return the engines that were started with a context of their own."""
        found: list[psutil.Process] = []
        for record in self._engines():
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):  # it ends just now
                content = json.loads(record.read_text())
                if content["spec"]["max_context_tokens"] == max_context_tokens:
                    found += psutil.Process(content["host"]["pid"]).children()
        return found

    async def ask(self, session: aiohttp.ClientSession, model: str, **fields: object) -> int:
        """Send a short request; return its status, 0 if there is nobody to take it."""
        body = {"model": model, "messages": [{"role": "user", "content": "ping"}], **fields}
        data = io.BytesIO(json.dumps(body).encode())
        try:
            async with session.post(f"{self.gateway}/v1/chat/completions", data=data) as answer:
                await answer.read()
                return answer.status
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            return 0


async def serves_again(
    fleet: ServingFleet, session: aiohttp.ClientSession, model: str, since: float
) -> float:
    """Ask until there is an answer; return how long after `since` that was."""
    async with asyncio.timeout(AGAIN_SECONDS):
        while (status := await fleet.ask(session, model)) != 200:
            assert status in (0, 404, 503), status  # no gateway, no route yet, no engine
            await asyncio.sleep(0.05)
    return time.monotonic() - since


@dataclass
class Streams:
    """Streams of one deployment: what came of each."""

    tasks: list[asyncio.Task[str]] = field(default_factory=list)
    begun: int = 0

    async def ends(self) -> dict[str, int]:
        """Return how often each end came: `whole`, `told` (an error event), `cut`."""
        async with asyncio.timeout(HANG_SECONDS):
            ends = await asyncio.gather(*self.tasks)
        return {end: ends.count(end) for end in sorted(set(ends))}


@asynccontextmanager
async def opened_session(fleet: ServingFleet) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {fleet.token('admin')}"}
    timeout = aiohttp.ClientTimeout(total=HANG_SECONDS)
    async with aiohttp.ClientSession(
        headers=headers, connector=aiohttp.TCPConnector(limit=0), timeout=timeout
    ) as opened:
        yield opened


async def _follow(fleet: ServingFleet, session: aiohttp.ClientSession, model: str, streams: Streams) -> str:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": _WORDS}],
        "stream": True,
        "pace_ms": _PACE_MS,
    }
    text, last = "", b""
    try:
        async with session.post(f"{fleet.gateway}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200, await answer.text()
            async for line in answer.content:
                if not line.startswith(b"data: {"):
                    last = line if line.strip() else last
                    continue
                event = json.loads(line.removeprefix(b"data: "))
                if "error" in event:
                    assert event["error"]["code"] == "engine_gone"
                    return "told"
                word = event["choices"][0]["delta"].get("content", "")
                streams.begun += bool(word) and not text
                text += word
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
        return "cut"
    assert (text, last) == (_WORDS, b"data: [DONE]\n")
    return "whole"


@asynccontextmanager
async def streaming(
    fleet: ServingFleet, session: aiohttp.ClientSession
) -> AsyncIterator[tuple[Streams, Streams]]:
    """Begin 16 streams of each deployment; enter when every one of them has begun."""
    both = Streams(), Streams()
    async with asyncio.TaskGroup() as group:
        for model, streams in zip(("one", "two"), both, strict=True):
            streams.tasks = [
                group.create_task(_follow(fleet, session, model, streams)) for _ in range(STREAMS)
            ]
        await fleet.until(
            lambda: all(item.begun == STREAMS for item in both), "every stream has begun", HANG_SECONDS
        )
        yield both


@asynccontextmanager
async def streaming_of(
    fleet: ServingFleet, session: aiohttp.ClientSession, model: str
) -> AsyncIterator[Streams]:
    """Begin 16 streams of one deployment; enter when every one of them has begun."""
    streams = Streams()
    async with asyncio.TaskGroup() as group:
        streams.tasks = [group.create_task(_follow(fleet, session, model, streams)) for _ in range(STREAMS)]
        await fleet.until(lambda: streams.begun == STREAMS, "every stream has begun", HANG_SECONDS)
        yield streams
