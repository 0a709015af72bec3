"""The few OpenAI calls that the kit makes of an engine, over plain HTTP."""

from __future__ import annotations

import asyncio
import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Answer", "OpenStream", "chat_body", "get", "open_stream", "post", "streamed"]

_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Status and body of an answer."""

    status: int
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON; fails if it is none."""
        return json.loads(self.body)

    def text(self) -> str:
        """Return what the first choice of a chat says."""
        return str(self.json()["choices"][0]["message"]["content"])


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStream:
    """A stream whose first line was read. Leaving it closes the connection."""

    connection: http.client.HTTPConnection
    response: http.client.HTTPResponse

    def close(self) -> None:
        """Hang up, as a client that dies does."""
        self.response.close()
        self.connection.close()


def chat_body(model: str, text: str = "red blue green", **fields: object) -> bytes:
    """Return the body of a greedy chat completion."""
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": model, "messages": messages, "temperature": 0, **fields}).encode()


async def get(address: str, path: str) -> Answer:
    """Ask for a path."""
    return await asyncio.to_thread(_ask, address, "GET", path, None)


async def post(address: str, body: bytes, path: str = "/v1/chat/completions") -> Answer:
    """Post a body and return the whole answer."""
    return await asyncio.to_thread(_ask, address, "POST", path, body)


async def streamed(address: str, body: bytes) -> list[dict[str, Any]]:
    """Post a body with `stream` and return the chunks; fails unless [DONE] ends them."""
    answer = await post(address, body)
    assert answer.status == 200, answer
    data = [line[5:].strip() for line in answer.body.decode().splitlines() if line.startswith("data:")]
    assert data, "the stream is empty"
    assert data[-1] == "[DONE]", "the stream does not end with [DONE]"
    return [json.loads(item) for item in data[:-1]]


async def open_stream(address: str, body: bytes) -> OpenStream:
    """Post a body with `stream` and read no further than its first line."""
    return await asyncio.to_thread(_open, address, body)


def _ask(address: str, method: str, path: str, body: bytes | None) -> Answer:
    connection = _connect(address)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return Answer(status=response.status, body=response.read())
    finally:
        connection.close()


def _open(address: str, body: bytes) -> OpenStream:
    connection = _connect(address)
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.readline()
    return OpenStream(connection=connection, response=response)


def _connect(address: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(address).netloc, timeout=_SECONDS)
