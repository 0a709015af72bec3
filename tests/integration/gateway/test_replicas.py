"""Several engines serve one model: who is asked, and who is asked when one of them dies."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from hashlib import sha256

import aiohttp
import pytest

from tunefleet_services.gateway import GatewaySettings, Route, RouteTable

CHAT = "/v1/chat/completions"
TOKEN_DIGEST = sha256(b"tf-test-token").hexdigest()


def replicated(*addresses):
    routes = [
        Route(
            model="tickets",
            engine_addresses=(address,),
            engine_model="tickets@42",
            project="default",
            create_time=datetime(2026, 1, 1, tzinfo=UTC),
        )
        for address in addresses
    ]
    return RouteTable.of(routes, [TOKEN_DIGEST])


def chat(text="hello", **fields):
    return {"model": "tickets", "messages": [{"role": "user", "content": text}], **fields}


async def ask(session, running, body):
    async with session.post(running.address + CHAT, json=body, headers=running.auth) as answer:
        return answer.status, await answer.read()


def texts_seen(engine):
    return {json.loads(item["body"])["messages"][0]["content"] for item in engine.seen()}


async def test_turns_of_a_conversation_go_to_one_engine_and_conversations_to_both(start_engine, gateway):
    engines = [start_engine(), start_engine()]
    async with (
        gateway(replicated(*(item.address for item in engines))) as running,
        aiohttp.ClientSession() as session,
    ):
        for _ in range(3):
            for at in range(12):
                status, _ = await ask(session, running, chat(f"conversation {at}"))
                assert status == 200
    one, two = (texts_seen(item) for item in engines)
    assert one
    assert two
    assert not one & two  # no conversation was with both
    assert len(one | two) == 12


async def test_streams_at_once_are_spread_by_load_although_all_begin_alike(start_engine, gateway):
    engines = [start_engine(), start_engine()]
    async with (
        gateway(replicated(*(item.address for item in engines))) as running,
        aiohttp.ClientSession() as session,
        asyncio.TaskGroup() as group,
    ):
        body = chat(stream=True, fake={"tokens": 30, "interval_ms": 10})
        asked = [group.create_task(ask(session, running, body)) for _ in range(16)]
    assert {item.result()[0] for item in asked} == {200}
    counts = sorted(len(item.seen()) for item in engines)
    assert sum(counts) == 16
    assert counts[0] >= 5  # a quarter above the mean is the most that one may hold


@pytest.mark.parametrize("how", ["is gone", "dies after the head"])
async def test_an_engine_that_goes_before_the_first_byte_is_made_up_for_by_its_replica(
    start_engine, gateway, how
):
    sick, well = start_engine(), start_engine()
    async with (
        gateway(replicated(sick.address, well.address)) as running,
        aiohttp.ClientSession() as session,
    ):
        if how == "is gone":
            sick.end()
        # Whoever is asked for this one dies of it; its replica must not be asked to die too.
        deadly = chat(stream=True, fake={"head_only": True, "only_engine": sick.address})
        for at in range(8):
            body = deadly if how == "dies after the head" else chat(f"text {at}", stream=True)
            status, data = await ask(session, running, {**body, "prompt_cache_key": str(at)})
            assert status == 200
            assert data.endswith(b"data: [DONE]\n\n")
        if how == "dies after the head":
            assert sick.process.wait(timeout=10) != 0  # it was asked, and died
    assert len(well.seen()) == 8


async def test_an_engine_that_dies_after_the_first_byte_is_not_made_up_for(start_engine, gateway):
    engines = [start_engine(), start_engine()]
    async with (
        gateway(replicated(*(item.address for item in engines))) as running,
        aiohttp.ClientSession() as session,
    ):
        body = chat(stream=True, fake={"tokens": 5, "die_after": 2})
        with pytest.raises(aiohttp.ClientPayloadError):
            await ask(session, running, body)
    async with asyncio.timeout(10):  # its connections are closed a moment before it can be reaped
        while len(alive := [item for item in engines if item.process.poll() is None]) == 2:
            await asyncio.sleep(0.01)
    assert len(alive) == 1
    assert alive[0].seen() == []  # nothing is sent twice once a client has been told something


async def test_a_silent_engine_is_not_made_up_for(start_engine, gateway):
    engines = [start_engine(), start_engine()]
    settings = GatewaySettings(idle_seconds=0.3, drain_seconds=0.1)
    async with (
        gateway(replicated(*(item.address for item in engines)), settings) as running,
        aiohttp.ClientSession() as session,
    ):
        status, _ = await ask(session, running, chat(stream=True, fake={"silent": True}))
    assert status == 504
    assert sum(len(item.seen()) for item in engines) == 1


async def test_with_all_replicas_gone_the_answer_is_503(start_engine, gateway):
    engines = [start_engine(), start_engine()]
    async with gateway(replicated(*(item.address for item in engines))) as running:
        for item in engines:
            item.end()
        async with aiohttp.ClientSession() as session:
            status, data = await ask(session, running, chat())
    assert status == 503
    assert json.loads(data)["error"]["code"] == "engine_unavailable"
