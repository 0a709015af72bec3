"""Bounds of one API token, pages of named origins, and what is asked of an engine that cannot do it."""

from __future__ import annotations

import asyncio
import hashlib
import resource

import aiohttp
import openai
import pytest

from tunefleet_services.gateway import GatewaySettings, RouteTable

CHAT = {"model": "tickets", "messages": [{"role": "user", "content": "hello"}]}
PATH = "/v1/chat/completions"


async def test_a_token_that_asks_too_often_is_429_and_told_when_to_come(engine, gateway, table):
    settings = GatewaySettings(requests_per_minute=12, drain_seconds=0.1)  # two at once, then one in 5 s
    async with (
        gateway(table(tickets=engine.address), settings) as running,
        aiohttp.ClientSession() as session,
    ):
        found: list[tuple[int, str | None]] = []
        for _ in range(4):
            async with session.post(running.address + PATH, json=CHAT, headers=running.auth) as answer:
                found.append((answer.status, answer.headers.get("Retry-After")))
        assert [status for status, _ in found] == [200, 200, 429, 429]
        assert 1 <= int(found[-1][1] or 0) <= 5
        client = openai.AsyncOpenAI(base_url=running.openai_url, api_key="tf-test-token", max_retries=0)
        async with client:
            with pytest.raises(openai.RateLimitError, match="12 times a minute") as caught:
                await client.models.list()
        assert caught.value.code == "rate_limit_exceeded"


async def test_the_bound_of_one_token_is_not_that_of_another(engine, gateway, table):
    routes = table(tickets=engine.address).routes.values()
    both = [hashlib.sha256(token).hexdigest() for token in (b"tf-test-token", b"tf-other")]
    settings = GatewaySettings(requests_at_once=1, drain_seconds=0.1)
    async with gateway(RouteTable.of(routes, both), settings) as running, aiohttp.ClientSession() as session:
        slow = CHAT | {"stream": True, "fake": {"tokens": 1000, "interval_ms": 20}}
        async with session.post(running.address + PATH, json=slow, headers=running.auth) as streaming:
            await streaming.content.readany()
            async with session.post(running.address + PATH, json=CHAT, headers=running.auth) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
            other = {"Authorization": "Bearer tf-other"}
            async with session.post(running.address + PATH, json=CHAT, headers=other) as answer:
                assert answer.status == 200

        async def again() -> int:
            async with session.post(running.address + PATH, json=CHAT, headers=running.auth) as answer:
                return answer.status

        async with asyncio.timeout(10):  # the place of one that left is free
            while await again() == 429:
                await asyncio.sleep(0.05)


async def test_pages_of_named_origins_may_ask_and_read_no_others(engine, gateway, table):
    settings = GatewaySettings(allowed_origins=frozenset({"https://app.example"}), drain_seconds=0.1)
    async with (
        gateway(table(tickets=engine.address), settings) as running,
        aiohttp.ClientSession() as session,
    ):
        for origin, status in (("https://app.example", 204), ("https://other.example", 403)):
            async with session.options(running.address + PATH, headers={"Origin": origin}) as answer:
                assert answer.status == status
                allowed = answer.headers.get("Access-Control-Allow-Origin")
                assert allowed == (origin if status == 204 else None)
        headers = {**running.auth, "Origin": "https://app.example"}
        for body in (CHAT, CHAT | {"stream": True}):
            async with session.post(running.address + PATH, json=body, headers=headers) as answer:
                assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
                await answer.read()


async def test_embeddings_are_passed_on_or_refused_by_name(start_engine, gateway, table):
    able, unable = start_engine("--embeddings"), start_engine()
    async with gateway(table(able=able.address, unable=unable.address)) as running:
        client = openai.AsyncOpenAI(
            base_url=running.openai_url,
            api_key="tf-test-token",
            max_retries=0,
            _strict_response_validation=True,
        )
        async with client:
            found = await client.embeddings.create(model="able", input=["a", "b"], encoding_format="float")
            assert [item.embedding for item in found.data] == [[97.0], [98.0]]
            with pytest.raises(openai.BadRequestError, match="engine of model 'unable' makes no embeddings"):
                await client.embeddings.create(model="unable", input="a")


async def test_an_unknown_model_is_told_the_nearest_name(engine, gateway, table):
    async with (
        gateway(table(tickets=engine.address)) as running,
        openai.AsyncOpenAI(base_url=running.openai_url, api_key="tf-test-token") as client,
    ):
        with pytest.raises(openai.NotFoundError, match="did you mean 'tickets'"):
            await client.chat.completions.create(**CHAT | {"model": "ticket"})


async def test_a_hundred_megabytes_are_refused_without_being_kept(engine, gateway, table):
    async def body():
        for _ in range(100):
            yield b"x" * (1 << 20)

    async with gateway(table(tickets=engine.address)) as running, aiohttp.ClientSession() as session:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for data in (body(), None):
            headers = {**running.auth, **({} if data else {"Content-Length": str(100 << 20)})}
            async with session.post(running.address + PATH, data=data, headers=headers) as answer:
                assert answer.status == 413
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        assert grown < 80 << 20  # sixteen are read before the bound is met


async def test_a_client_that_sends_its_body_too_slowly_is_let_go(engine, gateway, table):
    settings = GatewaySettings(idle_seconds=0.3, drain_seconds=0.1)
    async with gateway(table(tickets=engine.address), settings) as running:
        host, port = running.address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer tf-test-token\r\n"
        writer.write(f"{head}Content-Length: 999\r\n\r\n{{".encode())
        async with asyncio.timeout(10):
            assert b" 408 " in await reader.readline()
        writer.close()
    assert engine.seen() == []
