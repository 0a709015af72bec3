"""FakeEngine: a process that speaks OpenAI HTTP and generates nothing.

It stands in for an engine in the gateway's tests and benchmark. What it does is asked for
in the field `fake` of a request, which the gateway must pass on like any other field:

    tokens        pieces to stream (default 8)
    interval_ms   pause before each piece
    stamp         add the time of sending, monotonic ns, to each piece
    die_after     SIGKILL itself after that many pieces
    cut_event     before it dies, send the first half of one more event
    head_only     send the head of an answer, then SIGKILL itself
    silent        never answer
    silent_after  say nothing more after that many pieces
    status        answer with this status and an error
    thought       think this before the first piece
    calls         call these tools, each `{"id", "name", "arguments"}`, after the pieces
    cut           end because of the length
    only_engine   do all of this only if this is the address; another engine answers as usual
    hops          send hop-by-hop and CORS headers and a request id of its own

A caller that cannot add a field says the same as JSON in its last message, after `fake:`.
`POST /tokenize` answers one id per character, unless the engine was started with --no-tokenize.
`POST /v1/embeddings` is there with --embeddings alone.
`GET /fake/seen` tells every request it got and how that ended. Prints its base address.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
import time
from typing import Any

from aiohttp import web

_WORDS = ("Grüße", " from", " a", " fake", " 模型", " 🦙", ' "quoted"', " \n")


class FakeEngine:
    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self.complete),
                web.post("/v1/completions", self.complete),
                web.get("/fake/seen", self.tell),
            ]
        )
        if "--no-tokenize" not in sys.argv:
            app.add_routes([web.post("/tokenize", self.tokenize)])
        if "--embeddings" in sys.argv:
            app.add_routes([web.post("/v1/embeddings", self.embed)])
        return app

    async def embed(self, request: web.Request) -> web.Response:
        body = await request.json()
        found = [
            {"object": "embedding", "index": at, "embedding": [float(ord(text))]}
            for at, text in enumerate(body["input"])
        ]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return web.json_response({"object": "list", "data": found, "model": body["model"], "usage": usage})

    async def tell(self, request: web.Request) -> web.Response:
        return web.json_response(self.seen)

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        text = body.get("prompt") or "".join(item["content"] for item in body["messages"])
        return web.json_response({"tokens": [ord(letter) for letter in text], "model": body["model"]})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        seen: dict[str, Any] = {
            "path": request.path,
            "headers": dict(request.headers),
            "body": raw.decode() if len(raw) < 65536 else None,
            "body_sha256": hashlib.sha256(raw).hexdigest(),
            "sent_sha256": None,
            "sent_bytes": 0,
            "state": "running",
        }
        self.seen.append(seen)
        try:
            response = await self.answer(request, json.loads(raw), seen)
        except (asyncio.CancelledError, ConnectionError):
            seen["state"] = "cancelled"
            raise
        seen["state"] = "done"
        return response

    async def answer(
        self, request: web.Request, body: dict[str, Any], seen: dict[str, Any]
    ) -> web.StreamResponse:
        fake = body.get("fake") or _asked(body)
        if fake.get("only_engine", f"http://{request.host}") != f"http://{request.host}":
            fake = {}
        if fake.get("silent"):
            await asyncio.Event().wait()
        if "status" in fake:
            error = {"message": "the engine says no", "type": "engine", "param": None, "code": "no"}
            return web.json_response({"error": error}, status=fake["status"], headers={"Retry-After": "7"})
        headers = {"X-Engine": "fake"}
        if fake.get("hops"):
            headers |= {
                "Connection": "X-Secret-Hop",
                "X-Secret-Hop": "1",
                "Keep-Alive": "timeout=3",
                "Access-Control-Allow-Origin": "*",
                "Set-Cookie": "a=b",
                "X-Request-Id": "engine-1",
            }
        is_chat = request.path.endswith("chat/completions")
        if body.get("stream"):
            fake = {**fake, "usage": (body.get("stream_options") or {}).get("include_usage")}
            return await self.stream(request, body["model"], fake, headers, seen, is_chat=is_chat)
        data = _whole(body["model"], is_chat=is_chat)
        seen["sent_sha256"] = hashlib.sha256(data).hexdigest()
        return web.Response(body=data, headers={**headers, "Content-Type": "application/json"})

    async def stream(
        self,
        request: web.Request,
        model: str,
        fake: dict[str, Any],
        headers: dict[str, str],
        seen: dict[str, Any],
        *,
        is_chat: bool,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        if fake.get("head_only"):
            await _die()
        digest = hashlib.sha256()

        async def send(data: bytes) -> None:
            digest.update(data)
            await response.write(data)
            seen["sent_bytes"] += len(data)

        tokens = fake.get("tokens", 8)
        due = time.monotonic()
        if thought := fake.get("thought"):
            await send(_event(_delta(model, {"reasoning_content": thought})))
        for at in range(tokens):
            if interval := fake.get("interval_ms"):
                # By the clock, not by sleeps added up: the pace must not depend on the load.
                due += interval / 1e3
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            piece = _piece(model, at, is_last=at == tokens - 1, is_chat=is_chat)
            if fake.get("stamp"):
                piece["sent_ns"] = time.monotonic_ns()
            await send(_event(piece))
            if fake.get("silent_after") == at + 1:
                await asyncio.Event().wait()
            if fake.get("die_after") == at + 1:
                if fake.get("cut_event"):
                    await send(_event(piece)[:20])
                await _die()
        for index, call in enumerate(fake.get("calls") or ()):
            halves = call["arguments"][:3], call["arguments"][3:]
            named = {"index": index, "id": call["id"], "type": "function"}
            named |= {"function": {"name": call["name"], "arguments": halves[0]}}
            await send(_event(_delta(model, {"tool_calls": [named]})))
            rest = {"index": index, "function": {"arguments": halves[1]}}
            await send(_event(_delta(model, {"tool_calls": [rest]})))
        if fake.get("cut"):
            await send(_event(_delta(model, {}, finish="length")))
        if fake.get("usage"):
            await send(_event({"object": "chat.completion.chunk", "choices": [], "usage": _usage()}))
        await send(b"data: [DONE]\n\n")
        seen["sent_sha256"] = digest.hexdigest()
        return response


def _asked(body: dict[str, Any]) -> dict[str, Any]:
    last = (body.get("messages") or [{}])[-1].get("content")
    return json.loads(last.removeprefix("fake:")) if str(last).startswith("fake:") else {}


async def _die() -> None:
    await asyncio.sleep(0.05)  # so that what was written has left
    os.kill(os.getpid(), signal.SIGKILL)


def _event(piece: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(piece, ensure_ascii=False).encode() + b"\n\n"


def _usage() -> dict[str, int]:
    return {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}


def _piece(model: str, at: int, *, is_last: bool, is_chat: bool) -> dict[str, Any]:
    text = _WORDS[at % len(_WORDS)]
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "stop" if is_last else None}
    choice |= {"delta": {"role": "assistant", "content": text}} if is_chat else {"text": text}
    return {
        "id": "cmpl-1",
        "object": "chat.completion.chunk" if is_chat else "text_completion",
        "created": 1_700_000_000,
        "model": model,
        "choices": [choice],
    }


def _delta(model: str, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {**_piece(model, 0, is_last=False, is_chat=True), "choices": [choice]}


def _whole(model: str, *, is_chat: bool) -> bytes:
    text = "".join(_WORDS)
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "stop"}
    choice |= {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
    answer = {
        "id": "cmpl-1",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": 1_700_000_000,
        "model": model,
        "choices": [choice],
        "usage": _usage(),
    }
    return json.dumps(answer, ensure_ascii=False, indent=1).encode()


async def _serve() -> None:
    runner = web.AppRunner(
        FakeEngine().app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        # Ends with whoever started it, however that ended: then its standard input is closed.
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_serve())
