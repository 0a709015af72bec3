"""Requests that parts of the API are judged by."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tunefleet_core.testing.conformance.openai_http import Answer, get, post

__all__ = ["Asking", "Refused"]

_CHAT = "/v1/chat/completions"
_PROMPT = "red blue green white"


class Refused(Exception):
    """An answer with another status than 200."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """An engine and the model that it is asked for."""

    address: str
    model: str

    async def get(self, path: str) -> Any:
        """Return the JSON of a page."""
        return _json(await get(self.address, path))

    async def post(self, path: str, **fields: object) -> Any:
        """Return the JSON of an answer."""
        return _json(await self._post(path, fields))

    async def stream(self, path: str, **fields: object) -> list[dict[str, Any]]:
        """Return the pieces of a stream, up to its [DONE]."""
        lines = await self._lines(path, fields)
        if lines[-1] != "[DONE]":
            raise ValueError("the stream does not end with [DONE]")
        return [json.loads(line) for line in lines[:-1]]

    async def events(self, path: str, **fields: object) -> list[str]:
        """Return the types of the events of a stream that names them, as that of responses."""
        lines = await self._lines(path, fields)
        return [str(json.loads(line)["type"]) for line in lines if line != "[DONE]"]

    async def chat(self, **fields: object) -> Any:
        """Return a greedy chat completion of at most 12 tokens."""
        return await self.post(_CHAT, **_said(fields))

    async def text(self, **fields: object) -> str:
        """Return what the first choice of a chat says."""
        return str((await self.chat(**fields))["choices"][0]["message"]["content"] or "")

    async def chat_stream(self, **fields: object) -> list[dict[str, Any]]:
        """Return the pieces of a greedy chat completion."""
        return await self.stream(_CHAT, **_said(fields))

    async def _lines(self, path: str, fields: dict[str, object]) -> list[str]:
        answer = await self._post(path, {**fields, "stream": True})
        if answer.status != 200:
            raise Refused(answer)
        return [line[5:].strip() for line in answer.body.decode().splitlines() if line.startswith("data:")]

    async def _post(self, path: str, fields: dict[str, object]) -> Answer:
        return await post(self.address, json.dumps({"model": self.model, **fields}).encode(), path)


def _said(fields: dict[str, object]) -> dict[str, object]:
    messages = [{"role": "user", "content": _PROMPT}]
    return {"messages": messages, "temperature": 0, "max_tokens": 12, **fields}


def _json(answer: Answer) -> Any:
    if answer.status != 200:
        raise Refused(answer)
    return answer.json()
