"""Bytes, headers and cancellation between client and engine."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tunefleet_services.gateway import AccessLog, GatewaySettings, RouteTableHolder, serve_gateway

CHAT = "/v1/chat/completions"


def chat(**fields):
    return {"model": "tickets", "messages": [{"role": "user", "content": "hello"}], **fields}


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("is_stream", [True, False])
async def test_the_client_receives_the_bytes_that_the_engine_sent(engine, gateway, table, path, is_stream):
    async with gateway(table(tickets=engine.address)) as running, aiohttp.ClientSession() as session:
        body = chat(stream=is_stream, fake={"tokens": 500})
        async with session.post(running.address + path, json=body, headers=running.auth) as answer:
            received = await answer.read()
            assert answer.status == 200
            assert answer.headers["X-Engine"] == "fake"
        [request] = await engine.wait_for(lambda seen: seen[0]["state"] == "done")
    assert len(received) > 200
    assert hashlib.sha256(received).hexdigest() == request["sent_sha256"]


async def test_the_engine_receives_the_body_with_only_the_models_name_changed(engine, gateway, table):
    body = (
        '{ "seed":12345678901234567890, "temperature":1.0e0,\t"mod\\u0065l" : "tick\\u0065ts" ,\n'
        '"messages":[{"role":"user","content":"model \\ud83e\\udd99 🦙 \\"model\\": 1"}], "n":"tickets"} '
    )
    async with gateway(table(tickets=engine.address)) as running, aiohttp.ClientSession() as session:
        headers = {**running.auth, "Cookie": "a=b", "traceparent": "00-1-2-01"}
        async with session.post(running.address + CHAT, data=body.encode(), headers=headers) as answer:
            assert answer.status == 200
            request_id = answer.headers["X-Request-Id"]
    [request] = engine.seen()
    assert request["body"] == body.replace('"tick\\u0065ts"', '"tickets@42"')
    sent = {name.lower(): value for name, value in request["headers"].items()}
    assert "authorization" not in sent
    assert "cookie" not in sent
    assert sent["traceparent"] == "00-1-2-01"
    assert sent["x-request-id"] == request_id


async def test_a_long_body_arrives_whole(engine, gateway, table):
    body = json.dumps(chat(pad="ü" * 2_000_000)).encode()
    async with gateway(table(tickets=engine.address)) as running, aiohttp.ClientSession() as session:
        url = running.address + CHAT
        async with session.post(url, data=_pieces(body), headers=running.auth) as answer:
            assert answer.status == 200
    [request] = engine.seen()
    expected = body.replace(b'"model": "tickets"', b'"model": "tickets@42"')
    assert request["body_sha256"] == hashlib.sha256(expected).hexdigest()


async def _pieces(body):
    for at in range(0, len(body), 65536):
        yield body[at : at + 65536]


async def test_hop_by_hop_and_cors_headers_stay_behind_and_the_engines_request_id_is_kept(
    engine, gateway, table
):
    async with gateway(table(tickets=engine.address)) as running, aiohttp.ClientSession() as session:
        body = chat(stream=True, fake={"hops": True})
        async with session.post(running.address + CHAT, json=body, headers=running.auth) as answer:
            await answer.read()
            for name in ("X-Secret-Hop", "Keep-Alive", "Access-Control-Allow-Origin", "Set-Cookie"):
                assert name not in answer.headers
            assert answer.headers["X-Request-Id"] == "engine-1"
            assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"


@pytest.mark.parametrize(
    "fake", [{"interval_ms": 20, "tokens": 100_000}, {"silent": True}], ids=["mid-stream", "before it began"]
)
async def test_a_client_that_leaves_ends_the_engines_request(engine, gateway, table, fake):
    async with gateway(table(tickets=engine.address)) as running, aiohttp.ClientSession() as session:
        headers = {**running.auth, "X-Request-Id": "leaver"}

        async def ask() -> None:
            body = chat(stream=True, fake=fake)
            async with session.post(running.address + CHAT, json=body, headers=headers) as answer:
                await answer.read()

        asking = asyncio.ensure_future(ask())
        async with asyncio.timeout(20):
            await engine.wait_for(lambda seen: bool(seen))
            await asyncio.sleep(0.1)
            asking.cancel()
            await asyncio.wait([asking])
            await engine.wait_for(lambda seen: seen[0]["state"] == "cancelled")
            record = await running.record_of("leaver")
        assert (record["status"], record["outcome"]) == (499, "client_gone")
        async with session.get(running.address + "/metrics", headers=running.auth) as page:
            assert "tunefleet_gateway_requests_in_flight 0" in await page.text()


async def test_a_stream_in_flight_ends_on_the_old_route_and_the_next_takes_the_new(
    start_engine, gateway, table
):
    old, new = start_engine(), start_engine()
    async with gateway(table(tickets=old.address)) as running, aiohttp.ClientSession() as session:
        url, auth = running.address + CHAT, running.auth
        body = chat(stream=True, fake={"tokens": 40, "interval_ms": 10})
        async with session.post(url, json=body, headers=auth) as first:
            received = await first.content.readany()
            running.holder.replace_routes(table(tickets=new.address))
            async with session.post(url, json=chat(), headers=auth) as second:
                assert second.status == 200
            assert len(old.seen()) == len(new.seen()) == 1
            received += await first.read()
        [request] = await old.wait_for(lambda seen: seen[0]["state"] == "done")
    assert hashlib.sha256(received).hexdigest() == request["sent_sha256"]


async def test_a_stream_goes_on_while_the_model_is_taken_away(engine, gateway, table):
    async with gateway(table(tickets=engine.address)) as running, aiohttp.ClientSession() as session:
        url, auth = running.address + CHAT, running.auth
        body = chat(stream=True, fake={"tokens": 20, "interval_ms": 10})
        async with session.post(url, json=body, headers=auth) as first:
            await first.content.readany()
            running.holder.replace_routes(table())
            async with session.post(url, json=chat(), headers=auth) as second:
                assert second.status == 404
            assert (await first.read()).endswith(b"data: [DONE]\n\n")


async def test_a_silent_engine_is_504_after_the_idle_limit(engine, gateway, table):
    settings = GatewaySettings(idle_seconds=0.2, drain_seconds=0.1)
    async with (
        gateway(table(tickets=engine.address), settings) as running,
        aiohttp.ClientSession() as session,
    ):
        body = chat(stream=True, fake={"silent": True})
        async with session.post(running.address + CHAT, json=body, headers=running.auth) as answer:
            assert answer.status == 504
            assert (await answer.json())["error"]["code"] == "engine_timeout"
        await engine.wait_for(lambda seen: seen[0]["state"] == "cancelled")
    assert len(engine.seen()) == 1  # not sent twice: it may be at work


async def test_beyond_its_limit_of_requests_the_gateway_says_try_again(engine, gateway, table):
    settings = GatewaySettings(max_in_flight=1, drain_seconds=0.1)
    async with (
        gateway(table(tickets=engine.address), settings) as running,
        aiohttp.ClientSession() as session,
    ):
        url, auth = running.address + CHAT, running.auth
        body = chat(stream=True, fake={"tokens": 20, "interval_ms": 10})
        async with session.post(url, json=body, headers=auth) as first:
            async with session.post(url, json=chat(), headers=auth) as second:
                assert second.status == 503
                assert (await second.json())["error"]["code"] == "gateway_full"
            await first.read()
        async with session.post(url, json=chat(), headers=auth) as third:
            assert third.status == 200


async def test_log_and_metrics_tell_each_request(engine, gateway, table):
    async with gateway(table(tickets=engine.address)) as running, aiohttp.ClientSession() as session:
        url, auth = running.address + CHAT, running.auth
        async with session.post(url, json=chat(), headers={**auth, "X-Request-Id": "mine-1"}) as answer:
            size = len(await answer.read())
            assert answer.headers["X-Request-Id"] == "mine-1"
        async with session.post(
            url, json=chat(model="nobody"), headers={**auth, "X-Request-Id": "two words"}
        ) as answer:
            made = answer.headers["X-Request-Id"]
            assert made.startswith("req-")
        record = await running.record_of("mine-1")
        assert (record["model"], record["engine_model"]) == ("tickets", "tickets@42")
        assert (record["status"], record["bytes"], record["outcome"]) == (200, size, "answered")
        assert record["ms"] >= record["first_byte_ms"] > 0
        assert (await running.record_of(made))["outcome"] == "refused"
        async with session.get(running.address + "/metrics", headers=auth) as page:
            text = await page.text()
        of_model = 'project="default",model="tickets",adapter="tickets@42"'
        assert f'requests_total{{{of_model},status="200",outcome="answered"}} 1' in text
        assert 'model="",adapter="",status="404",outcome="refused"} 1' in text
        assert f'answer_seconds_bucket{{{of_model},le="+Inf"}} 1' in text
        assert f"prompt_tokens_total{{{of_model}}} 3" in text
        assert f"completion_tokens_total{{{of_model}}} 8" in text
        assert "time_to_first_token_seconds_bucket" not in text  # nothing was streamed
        assert "nobody" not in text


async def test_metrics_time_the_pieces_of_streams_and_count_their_tokens(engine, gateway, table):
    async with gateway(table(tickets=engine.address)) as running, aiohttp.ClientSession() as session:
        url, auth = running.address + CHAT, running.auth
        fake = {"tokens": 20, "interval_ms": 5}
        usage = {"stream_options": {"include_usage": True}}
        for more in ({}, usage):
            async with session.post(url, json=chat(stream=True, fake=fake, **more), headers=auth) as answer:
                assert (await answer.read()).endswith(b"data: [DONE]\n\n")
        async with session.get(running.address + "/metrics", headers=auth) as page:
            text = await page.text()
    found = {
        sample.name.removeprefix("tunefleet_gateway_"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["time_to_first_token_seconds_count"] == 2
    # At most 19 pieces after the first of each stream, and the event that tells the usage of the second:
    # those that come together with the first are not timed.
    assert 0 < found["inter_token_seconds_count"] <= 39
    assert 0 < found["inter_token_seconds_sum"] <= found["answer_seconds_sum"]
    assert (found["prompt_tokens_total"], found["completion_tokens_total"]) == (3, 8)
    assert found["answers_without_usage_total"] == 1


async def test_a_client_that_takes_nothing_any_more_is_let_go(engine, gateway, table):
    settings = GatewaySettings(idle_seconds=0.3, drain_seconds=0.1)
    async with (
        gateway(table(tickets=engine.address), settings) as running,
        aiohttp.ClientSession() as session,
    ):
        headers = {**running.auth, "X-Request-Id": "sleeper"}
        body = chat(stream=True, fake={"tokens": 10_000_000})
        async with session.post(running.address + CHAT, json=body, headers=headers), asyncio.timeout(30):
            record = await running.record_of("sleeper")  # the answer is not read meanwhile
            assert (record["status"], record["outcome"]) == (499, "client_gone")
            await engine.wait_for(lambda seen: seen[0]["state"] == "cancelled")


async def test_a_gateway_that_stops_lets_its_streams_end(engine, table):
    holder, listening = RouteTableHolder(table(tickets=engine.address)), asyncio.Event()
    addresses: list[str] = []

    def note(address: str) -> None:
        addresses.append(address)
        listening.set()

    serving = asyncio.ensure_future(
        serve_gateway(holder, access_log=AccessLog(io.StringIO()), on_listening=note)
    )
    await listening.wait()
    body = chat(stream=True, fake={"tokens": 30, "interval_ms": 10})
    headers = {"Authorization": "Bearer tf-test-token"}
    async with aiohttp.ClientSession() as session:
        async with session.post(addresses[0] + CHAT, json=body, headers=headers) as answer:
            await answer.content.readany()
            serving.cancel()
            assert (await answer.read()).endswith(b"data: [DONE]\n\n")
        await asyncio.wait([serving])
        assert serving.cancelled()
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(addresses[0] + "/health")
