"""What the gateway refuses, each time in the shape that OpenAI clients parse."""

from __future__ import annotations

import asyncio
import gzip
import json

import aiohttp
import pytest

from tunefleet_core.errors import TunefleetError
from tunefleet_services.gateway import GatewaySettings, RouteTableHolder, serve_gateway

CHAT = "/v1/chat/completions"


async def refusal(answer):
    assert answer.content_type == "application/json"
    assert answer.headers["X-Request-Id"]
    document = await answer.json()
    assert set(document) == {"error"}
    error = document["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status, error["code"], error["param"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "invalid_json", None)),
        (b"{", (400, "invalid_json", None)),
        (b"[]", (400, "invalid_json", None)),
        (b'{"model":"tickets"} x', (400, "invalid_json", None)),
        (b'{"model":"tickets","t":NaN}', (400, "invalid_json", None)),
        (b'{"model":"\xff"}', (400, "invalid_json", None)),
        (b'{"model":"tickets","a":' + b"[" * 200_000, (400, "invalid_json", None)),
        (b'{"model":"tickets","a":' + b"1" * 5000 + b"}", (400, "invalid_json", None)),
        (b'{"messages":[]}', (400, "missing_required_parameter", "model")),
        (b'{"model":7}', (400, "missing_required_parameter", "model")),
        (b'{"model":""}', (400, "missing_required_parameter", "model")),
        (b'{"model":"tickets","mod\\u0065l":"other"}', (400, "duplicate_field", "model")),
        (b'{"model":"\\ud800"}', (404, "model_not_found", "model")),
    ],
)
async def test_a_wrong_body_is_refused_and_the_engine_never_sees_it(engine, gateway, table, body, expected):
    async with gateway(table(tickets=engine.address)) as running, aiohttp.ClientSession() as session:
        async with session.post(running.address + CHAT, data=body, headers=running.auth) as answer:
            assert await refusal(answer) == expected
        assert engine.seen() == []


async def test_a_body_beyond_the_limit_is_413_also_when_it_is_packed_or_chunked(engine, gateway, table):
    async def chunks():
        for _ in range(40):
            yield b"x" * 1000

    bomb = gzip.compress(b"x" * 40_000)
    settings = GatewaySettings(max_body_bytes=20_000, drain_seconds=0.1)
    async with gateway(table(tickets=engine.address), settings) as running:
        for data, more in ((b"x" * 40_000, {}), (chunks(), {}), (bomb, {"Content-Encoding": "gzip"})):
            async with aiohttp.ClientSession() as session:
                headers = {**running.auth, **more}
                async with session.post(running.address + CHAT, data=data, headers=headers) as answer:
                    assert await refusal(answer) == (413, "request_too_large", None)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v1/audio/speech", 404, "unknown_url"),
        ("GET", "/v1", 404, "unknown_url"),
        ("GET", "/", 404, "unknown_url"),
        ("POST", "/v1/chat/completions/", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models/tickets", 405, "method_not_allowed"),
    ],
)
async def test_other_paths_answer_in_the_error_shape(gateway, table, method, path, status, code):
    async with gateway(table()) as running, aiohttp.ClientSession() as session:
        async with session.request(method, running.address + path, headers=running.auth) as answer:
            assert await refusal(answer) == (status, code, None)
        async with session.request(method, running.address + path) as answer:
            assert await refusal(answer) == (401, "invalid_api_key", None)
            assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_health_needs_no_token_and_metrics_does(gateway, table):
    async with gateway(table()) as running, aiohttp.ClientSession() as session:
        async with session.get(running.address + "/health") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok"})
        async with session.get(running.address + "/metrics") as answer:
            assert await refusal(answer) == (401, "invalid_api_key", None)


async def test_a_gateway_that_has_just_started_calls_no_token_wrong(engine, gateway, table):
    async with gateway(None) as running, aiohttp.ClientSession() as session:
        async with session.get(running.address + "/v1/models", headers=running.auth) as answer:
            assert await refusal(answer) == (503, "gateway_starting", None)
            assert answer.headers["Retry-After"] == "1"
        running.holder.replace_routes(table(tickets=engine.address))
        async with session.get(running.address + "/v1/models", headers=running.auth) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    "sent", ["", "Bearer", "Bearer ", "Basic tf-test-token", "tf-test-token", "Bearer é"]
)
async def test_a_header_without_a_token_of_the_fleet_is_401(gateway, table, sent):
    async with gateway(table()) as running, aiohttp.ClientSession() as session:
        async with session.get(running.address + "/v1/models", headers={"Authorization": sent}) as answer:
            assert await refusal(answer) == (401, "invalid_api_key", None)
        spaced = {"Authorization": "bearer  tf-test-token"}  # schemes are case-insensitive (RFC 9110)
        async with session.get(running.address + "/v1/models", headers=spaced) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:80"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "8.8.8.8"}, 403),
        ({"Host": "[::2]:1"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "LOCALHOST."}, 200),
        ({"Host": "127.3.2.1"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Host": "gateway.lan:8080"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "https://app.example"}, 200),
    ],
)
async def test_host_and_origin_must_be_loopback_or_named(gateway, table, headers, expected):
    settings = GatewaySettings(
        allowed_hosts=frozenset({"gateway.lan"}),
        allowed_origins=frozenset({"https://app.example"}),
        drain_seconds=0.1,
    )
    async with gateway(table(), settings) as running, aiohttp.ClientSession() as session:
        for path in ("/health", "/v1/models"):
            request = {**running.auth, **headers}
            async with session.get(running.address + path, headers=request) as answer:
                assert answer.status == expected
                allowed = headers.get("Origin") if expected == 200 else None
                assert answer.headers.get("Access-Control-Allow-Origin") == allowed
                if expected == 403:
                    name = next(iter(headers)).lower()
                    assert (await refusal(answer))[1] == f"{name}_not_allowed"


async def test_a_bind_beyond_loopback_without_tls_refuses_to_start():
    with pytest.raises(TunefleetError, match="reachable from other machines"):
        await serve_gateway(RouteTableHolder(), "0.0.0.0", 0)


class RudeEngine:
    """A fake engine below HTTP: says `reply` to each request, then closes; counts them."""

    def __init__(self, *replies: bytes) -> None:
        self.replies = replies
        self.requests = 0
        self.connections = 0

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                reply = self.replies[min(self.requests, len(self.replies) - 1)]
                self.requests += 1
                writer.write(reply)
                await writer.drain()
                if not reply.startswith(b"HTTP/1.1 200") or b"{}" not in reply:
                    return
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("replies", "status", "requests"),
    [
        ((b"",), 503, 2),
        ((b"", GOOD), 200, 2),
        ((b"HTTP/1.1 200 OK\r\nContent-Ty",), 503, 1),
        ((b"SSH-2.0-not-an-engine\r\n\r\n",), 502, 1),
        ((GOOD[:-1],), 200, 1),
    ],
    ids=["closes", "closes once", "half a head", "no HTTP", "short body"],
)
async def test_a_request_is_sent_again_only_if_not_one_byte_came_back(
    gateway, table, replies, status, requests
):
    async with (
        RudeEngine(*replies) as rude,
        gateway(table(tickets=rude.address)) as running,
        aiohttp.ClientSession() as session,
    ):
        body = json.dumps({"model": "tickets"})
        async with session.post(running.address + CHAT, data=body, headers=running.auth) as answer:
            assert answer.status == status
            if replies == (GOOD[:-1],):
                with pytest.raises(aiohttp.ClientPayloadError):
                    await answer.read()
        assert rude.requests == requests


async def test_a_pooled_connection_that_the_engine_closed_costs_the_client_nothing(gateway, table):
    async with (
        RudeEngine(GOOD, b"", GOOD) as rude,
        gateway(table(tickets=rude.address)) as running,
        aiohttp.ClientSession() as session,
    ):
        for _ in range(2):
            body = json.dumps({"model": "tickets"})
            async with session.post(running.address + CHAT, data=body, headers=running.auth) as answer:
                assert (answer.status, await answer.read()) == (200, b"{}")
        assert (rude.requests, rude.connections) == (3, 2)


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_stream_that_lasts_until_its_connection_closes_is_whole_only_with_its_end_mark(
    gateway, table, is_whole
):
    said = STREAM + b'data: {"choices": []}\n\n' + (b"data: [DONE]\n\n" if is_whole else b"")
    async with (
        RudeEngine(said) as rude,
        gateway(table(tickets=rude.address)) as running,
        aiohttp.ClientSession() as session,
    ):
        body = json.dumps({"model": "tickets", "stream": True})
        headers = {**running.auth, "X-Request-Id": "one"}
        async with session.post(running.address + CHAT, data=body, headers=headers) as answer:
            assert answer.status == 200
            if is_whole:
                assert (await answer.read()).endswith(b"[DONE]\n\n")
            else:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await answer.read()
        assert (await running.record_of("one"))["outcome"] == ("answered" if is_whole else "engine_gone")
