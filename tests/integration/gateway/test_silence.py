"""An engine that falls silent in the middle of a stream is given up; one that is merely slow is not."""

from __future__ import annotations

import aiohttp

from tunefleet_services.gateway import GatewaySettings

CHAT = "/v1/chat/completions"


def ask(**fake: int) -> dict[str, object]:
    messages = [{"role": "user", "content": "hi"}]
    return {"model": "tickets", "messages": messages, "stream": True, "fake": fake}


async def read_until_cut(answer: aiohttp.ClientResponse) -> bytes:
    """Return what came of an answer that ends without the mark of a whole body."""
    received = bytearray()
    try:
        while chunk := await answer.content.readany():
            received += chunk
    except aiohttp.ClientPayloadError:
        return bytes(received)
    raise AssertionError("the answer ended as a whole one does")


async def test_an_engine_that_falls_silent_in_mid_stream_is_given_up(engine, gateway, table):
    settings = GatewaySettings(idle_seconds=0.3, drain_seconds=0.1)
    async with (
        gateway(table(tickets=engine.address), settings) as running,
        aiohttp.ClientSession() as session,
    ):
        headers = {**running.auth, "X-Request-Id": "silenced"}
        body = ask(tokens=5, interval_ms=1, silent_after=2)
        async with session.post(running.address + CHAT, json=body, headers=headers) as answer:
            assert answer.status == 200
            received = await read_until_cut(answer)
        *pieces, error, rest = received.split(b"\n\n")
        assert (len(pieces), rest) == (2, b"")
        assert b'"engine_gone"' in error
        assert (await running.record_of("silenced"))["outcome"] == "engine_gone"
        await engine.wait_for(lambda seen: seen[0]["state"] == "cancelled")


async def test_a_stream_may_last_longer_than_a_silence(engine, gateway, table):
    settings = GatewaySettings(idle_seconds=1.5, drain_seconds=0.1)
    async with (
        gateway(table(tickets=engine.address), settings) as running,
        aiohttp.ClientSession() as session,
    ):
        body = ask(tokens=15, interval_ms=200)
        async with session.post(running.address + CHAT, json=body, headers=running.auth) as answer:
            assert (await answer.read()).endswith(b"data: [DONE]\n\n")
