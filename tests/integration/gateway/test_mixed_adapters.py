"""Each adapter answers its own letter, also while others are taken out and put in beside it.

A real engine (embedded, on a tiny base) behind a real gateway. Adapter k is made to answer letter k; some
names are again and again unloaded and loaded with another letter while everybody is asked at once. Every
single answer is checked: a name that nobody touches answers its letter always; one that is exchanged
answers a letter that it had, or was 404, at some moment between question and answer.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest

from tunefleet_services.gateway import GatewaySettings, Route, RouteTable

pytestmark = [pytest.mark.backend, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[3]
ENVIRONMENTS = Path(os.environ.get("TUNEFLEET_ENVS") or ROOT / ".envs")
_ADAPTERS = 24
_STEADY = 6
_CHANGING = 6
_AT_ONCE = 32


def embedded_python() -> str:
    """Return the interpreter of the embedded engine, or skip."""
    try:
        known = json.loads((ENVIRONMENTS / "index.json").read_text())["environments"]
        return known["embedded"]["python"]
    except (FileNotFoundError, KeyError):
        pytest.skip(f"embedded is not installed in {ENVIRONMENTS}: run `make setup`")


@dataclass
class Engine:
    """The embedded engine with its adapters on disk."""

    address: str
    folder: Path
    letters: list[str]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    python, folder = embedded_python(), tmp_path_factory.mktemp("forced")
    plugin = str(ROOT / "plugins" / "embedded")
    path = os.pathsep.join(filter(None, [plugin, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    made = subprocess.run(
        [python, str(Path(__file__).with_name("forced_adapters.py")), str(folder), str(_ADAPTERS)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    with (folder / "engine.log").open("w") as log:
        process = subprocess.Popen(
            [python, "-m", "tunefleet_embedded.engine", "--model", str(folder / "base"), "--port", "0"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("READY http://"), (folder / "engine.log").read_text()
        letters = json.loads(made.stdout.splitlines()[-1])
        yield Engine(address=line.removeprefix("READY ").strip(), folder=folder, letters=letters)
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@dataclass
class Name:
    """A model name: what it answered since when. None: it was, or may have been, not there."""

    model: str
    past: list[tuple[float, frozenset[str | None]]] = field(default_factory=list)

    def becomes(self, *possible: str | None) -> None:
        self.past.append((asyncio.get_running_loop().time(), frozenset(possible)))

    def between(self, begun: float, ended: float) -> frozenset[str | None]:
        """Return everything that it could answer in a span."""
        spans = itertools.zip_longest(self.past, self.past[1:])
        return frozenset().union(
            *(
                possible
                for (since, possible), after in spans
                if since <= ended and (after is None or after[0] >= begun)
            )
        )


class Crowd:
    """Asks and exchanges at once, and checks every answer."""

    def __init__(self, engine: Engine, session: aiohttp.ClientSession, gateway: str, seed: int) -> None:
        self.engine = engine
        self.gateway = gateway
        self.answers: Counter[str] = Counter()
        self._session = session
        self._random = random.Random(seed)
        self._spare = list(range(_STEADY + _CHANGING, _ADAPTERS))
        self.steady = [Name(f"steady-{at}") for at in range(_STEADY)]
        self.changing = [Name(f"changing-{at}") for at in range(_CHANGING)]

    async def load_all(self) -> None:
        for at, name in enumerate((*self.steady, *self.changing)):
            await self.post("load", name, at)
            name.becomes(self.engine.letters[at])

    async def ask_often(self, requests: int) -> None:
        """Ask so many times, 32 at once."""
        left = iter(range(requests))

        async def one_after_another() -> None:
            for number in left:
                await self.ask(self._random.choice((*self.steady, *self.changing)), number)

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(one_after_another())

    async def exchange(self, operations: int, requests: int) -> None:
        """Unload and load in turns, spread over the requests, a name getting another letter each time."""
        holds = {name.model: at for at, name in enumerate(self.changing, _STEADY)}
        for number in range(operations // 2):
            while self.answers.total() < number * 2 * requests / operations:
                await asyncio.sleep(0.005)
            name = self._random.choice(self.changing)
            old = holds[name.model]
            name.becomes(self.engine.letters[old], None)
            await self.post("unload", name)
            name.becomes(None)
            new = self._spare.pop(self._random.randrange(len(self._spare)))
            self._spare.append(old)
            name.becomes(None, self.engine.letters[new])
            await self.post("load", name, new)
            name.becomes(self.engine.letters[new])
            holds[name.model] = new

    async def ask(self, name: Name, number: int) -> None:
        loop = asyncio.get_running_loop()
        body = {
            "model": name.model,
            "messages": [{"role": "user", "content": f"question {number % 97}"}],
            "max_tokens": 1,
            "temperature": 0,
        }
        begun = loop.time()
        async with self._session.post(f"{self.gateway}/v1/chat/completions", json=body) as answer:
            document = await answer.json()
        assert answer.status in (200, 404), document
        said = document["choices"][0]["message"]["content"] if answer.status == 200 else None
        possible = name.between(begun, loop.time())
        assert said in possible, f"{name.model} said {said!r}, not one of {possible}: request {number}"
        self.answers["absent" if said is None else said] += 1

    async def post(self, what: str, name: Name, adapter: int | None = None) -> None:
        body = {"lora_name": name.model}
        if adapter is not None:
            body["lora_path"] = str(self.engine.folder / f"adapter-{adapter}")
        url = f"{self.engine.address}/v1/{what}_lora_adapter"
        async with self._session.post(url, json=body) as answer:
            assert answer.status == 200, await answer.text()

    async def unload_all(self) -> None:
        for name in (*self.steady, *self.changing):
            await self.post("unload", name)


def table_to(engine: Engine, models: list[str]) -> RouteTable:
    routes = [
        Route(
            model=model,
            engine_addresses=(engine.address,),
            engine_model=model,
            project="default",
            create_time=datetime(2026, 1, 1, tzinfo=UTC),
        )
        for model in models
    ]
    return RouteTable.of(routes, [sha256(b"tf-test-token").hexdigest()])


@pytest.mark.parametrize(
    ("requests", "operations"),
    [(1_000, 20), pytest.param(10_000, 200, marks=pytest.mark.slow)],
)
async def test_every_answer_is_of_the_adapter_that_was_asked(embedded, gateway, requests, operations):
    names = [f"steady-{at}" for at in range(_STEADY)] + [f"changing-{at}" for at in range(_CHANGING)]
    settings = GatewaySettings(drain_seconds=0.1)
    async with (
        gateway(table_to(embedded, names), settings) as running,
        aiohttp.ClientSession(headers=running.auth) as session,
    ):
        crowd = Crowd(embedded, session, running.address, seed=requests)
        await crowd.load_all()
        async with asyncio.TaskGroup() as group:
            group.create_task(crowd.ask_often(requests))
            group.create_task(crowd.exchange(operations, requests))
        await crowd.unload_all()
    assert crowd.answers.total() == requests
    # Every steady letter was heard, and more than the changing names began with.
    assert set(embedded.letters[:_STEADY]) <= set(crowd.answers)
    assert len(set(crowd.answers) - {"absent"}) > _STEADY + _CHANGING


async def test_the_check_sees_an_adapter_that_answers_for_another(embedded, gateway):
    async with (
        gateway(table_to(embedded, ["steady-0"])) as running,
        aiohttp.ClientSession(headers=running.auth) as session,
    ):
        crowd = Crowd(embedded, session, running.address, seed=0)
        name = crowd.steady[0]
        await crowd.post("load", name, 1)
        name.becomes(embedded.letters[0])
        with pytest.raises(AssertionError, match="steady-0 said 'b'"):
            await crowd.ask(name, 1)
        await crowd.post("unload", name)
