"""An adapter that trl trained, served by each engine that can be had here: named, checked, asked, deleted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import openai
import pytest
import pytest_asyncio
from local_fleet import TICKETS, LocalFleet, missing_backend

pytestmark = [
    pytest.mark.backend,
    pytest.mark.slow,  # environments of engines are installed for `make test-all` alone
    pytest.mark.timeout(900),
    pytest.mark.asyncio(loop_scope="module"),
]

ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(bool(missing_backend(name)), reason=missing_backend(name)))
    for name in ("mlx", "vllm")
]
PROCESS = {"mlx": "tunefleet_mlx.engine", "vllm": "vllm.entrypoints.openai.api_server"}
"""A word of the command line of each engine."""
QUICKLY = {"vllm": ("--set", "options.enforce-eager=true")}
"""What makes an engine start sooner."""
_START_SECONDS = 300.0
_MOST_NATS = 0.02  # what the contract allows between the tuned model and the engine in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A deployment on a named engine."""

    fleet: LocalFleet
    engine: str
    name: str
    contract: dict[str, object]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tickets(fleet: LocalFleet) -> LocalFleet:
    short = ("--set", "train.optim.max_steps=30")
    await fleet.done("train", TICKETS / "job.yaml", "--id", "tickets", *short, "--follow")
    return fleet


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES)
async def served(tickets: LocalFleet, request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """The adapter on one engine; taken down again, and the engine with it."""
    name = request.param
    await tickets.done("deploy", "models/tickets", "--engine", name, "--name", name, *QUICKLY.get(name, ()))
    await tickets.until(lambda: _state(tickets, name, "READY"), "it is served", _START_SECONDS)
    deployment = (await tickets.done("deployments", "get", name)).document("Deployment")
    yield Served(fleet=tickets, engine=name, name=deployment["name"], contract=deployment["contract"])
    await tickets.done("deployments", "delete", name)
    word = PROCESS[name]
    await tickets.until(lambda: not tickets.processes(word), "the engine is gone", 30)


async def test_tokens_and_numbers_are_those_of_training(served: Served) -> None:
    assert (served.contract["tokens"], served.contract["numbers"]) == ("CONTRACT_STATE_VERIFIED",) * 2
    to_tuned, to_base = (float(str(served.contract[f"distance_to_{name}"])) for name in ("tuned", "base"))
    assert to_tuned < _MOST_NATS < to_base
    assert len(served.fleet.processes(PROCESS[served.engine])) == 1


async def test_the_stock_client_gets_what_was_learned_through_the_gateway(served: Served) -> None:
    *prompt, _ = json.loads((TICKETS / "test.jsonl").read_text().splitlines()[0])["messages"]
    question = {"model": served.engine, "messages": prompt, "temperature": 0, "max_tokens": 40}

    def ask() -> tuple[str, list[str]]:
        token = served.fleet.token("admin")
        with openai.OpenAI(base_url=f"{served.fleet.gateway}/v1", api_key=token, max_retries=0) as client:
            answer = client.chat.completions.create(**question)
            with client.chat.completions.create(**question, stream=True) as stream:
                pieces = [chunk.choices[0].delta.content for chunk in stream if chunk.choices]
            return answer.choices[0].message.content, [piece for piece in pieces if piece]

    said, pieces = await asyncio.to_thread(ask)
    assert said.startswith('{"')
    assert "".join(pieces) == said
    assert len(pieces) > 1


async def test_an_engine_that_is_killed_comes_back_and_answers_as_before(served: Served) -> None:
    *prompt, _ = json.loads((TICKETS / "test.jsonl").read_text().splitlines()[0])["messages"]
    fleet, name = served.fleet, served.engine

    def ask() -> str:
        token = fleet.token("admin")
        with openai.OpenAI(base_url=f"{fleet.gateway}/v1", api_key=token, max_retries=0) as client:
            answer = client.chat.completions.create(model=name, messages=prompt, temperature=0, max_tokens=40)
            return answer.choices[0].message.content

    before = await asyncio.to_thread(ask)
    (process,) = fleet.processes(PROCESS[name])
    process.kill()
    await fleet.until(lambda: _state(fleet, name, "STARTING"), "its end is noticed", 30)
    await fleet.until(lambda: _state(fleet, name, "READY"), "it is served again", _START_SECONDS)
    assert await asyncio.to_thread(ask) == before


async def _state(fleet: LocalFleet, name: str, state: str) -> bool:
    shown = (await fleet.done("deployments", "get", name)).document("Deployment")
    return shown["state"] == f"DEPLOYMENT_STATE_{state}"
