"""What stands before SGLang's own HTTP application: one name for one model.

SGLang 0.5.23 answers whatever name it does not know with the base, an adapter's bare name among
them. Here a request for an adapter that is loaded reaches the adapter, and any other name is
404. The application is SGLang's own otherwise, in the same process.

Two more things clients and the contract rely on, and SGLang does not have: log-probabilities by
token id (`return_tokens_as_token_ids`, as vLLM calls it), since one text may be that of several
tokens; and errors in the form that OpenAI clients read.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, cast

__all__ = ["Front", "Names"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]
Names = Callable[[], tuple[str, frozenset[str]]]
"""Returns the name of the base, and those of the adapters that are loaded."""

_BY_ADAPTER = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
"""Paths where SGLang takes an adapter beside the model."""
_OF_THE_BASE = ("/tokenize", "/detokenize", "/v1/tokenize", "/v1/detokenize")
"""Paths that know no weights: an adapter has the tokenizer and template of its base."""
_COMPLETIONS = "/v1/completions"
_UNLOAD = "/unload_lora_adapter"
_NATIVE = "/generate"
_ASKED_BY_ID = frozenset(
    ("model", "prompt", "max_tokens", "temperature", "logprobs", "return_tokens_as_token_ids")
)
_MOST_BYTES = 64 * 1024 * 1024
_ERROR_STATUS = 400


class Front:
    """ASGI middleware of SGLang's application.

    Args:
        app: SGLang's application.
        names: What it serves at this moment.
    """

    def __init__(self, app: Application, names: Names) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, mostly by passing it on."""
        path = str(scope.get("path", ""))
        if scope["type"] != "http" or scope.get("method") != "POST" or not _names_a_model(path):
            await self._app(scope, receive, send)
            return
        raw = await _read(receive)
        if raw is None:
            await _refuse(send, 413, f"The body is larger than {_MOST_BYTES} bytes.", code="too_large")
            return
        body = _object(raw)
        if body is None:  # no JSON object: SGLang says what is wrong with it
            await self._app(scope, _again(raw, receive), _openai_errors(send))
            return
        if path == _UNLOAD:
            await self._unload(scope, raw, body, receive, send)
            return
        await self._ask(scope, body, receive, send)

    async def _ask(self, scope: Message, body: dict[str, Any], receive: Receive, send: Send) -> None:
        path = str(scope["path"])
        base, adapters = self._names()
        model = body.get("model")
        is_adapter = model in adapters and model != base
        if not (model == base or (is_adapter and path in (*_BY_ADAPTER, *_OF_THE_BASE))):
            await _refuse(send, 404, f"The model '{model}' does not exist.", code="model_not_found")
            return
        if "lora_path" in body:  # one client would reach what another is served
            await _refuse(send, 400, "'lora_path' is not taken: name the adapter as the model.", code="")
            return
        if is_adapter and path in _BY_ADAPTER:
            body["lora_path"] = model
        if path == _COMPLETIONS and _wants_ids(body):
            await self._by_token_id(scope, body, receive, send)
            return
        body.pop("return_tokens_as_token_ids", None)
        raw = json.dumps(body).encode()
        await self._app(_sized(scope, raw), _again(raw, receive), _openai_errors(send))

    async def _by_token_id(self, scope: Message, body: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer a completion from SGLang's own `/generate`, which tells token ids."""
        question = {
            "input_ids": body["prompt"],
            "sampling_params": {
                "max_new_tokens": body.get("max_tokens", 16),
                "temperature": body.get("temperature", 1.0),
            },
            "return_logprob": True,
            "top_logprobs_num": body["logprobs"],
            "lora_path": body.get("lora_path"),
        }
        raw = json.dumps(question).encode()
        inner = {**_sized(scope, raw), "path": _NATIVE, "raw_path": _NATIVE.encode()}
        answer = _Kept()
        await self._app(inner, _again(raw, receive), answer)
        found = _object(answer.body)
        if answer.status != 200 or found is None:
            await _refuse(send, answer.status, _sentence(answer.body), code="")
            return
        await _respond(send, 200, _completion(str(body["model"]), found))

    async def _unload(
        self, scope: Message, raw: bytes, body: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        _, adapters = self._names()
        name = body.get("lora_name")
        if name not in adapters:  # SGLang's 400 for that is the same as for everything else
            await _refuse(send, 404, f"The adapter '{name}' is not loaded.", code="model_not_found")
            return
        await self._app(scope, _again(raw, receive), send)


class _Kept:
    """Takes an answer instead of a client."""

    def __init__(self) -> None:
        self.status = 500
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
        elif message["type"] == "http.response.body":
            self.body += bytes(message.get("body", b""))


def _names_a_model(path: str) -> bool:
    return path.startswith("/v1/") or path in (*_OF_THE_BASE, _UNLOAD)


def _wants_ids(body: Mapping[str, Any]) -> bool:
    """Return whether a completion asks for ids, and for nothing that only SGLang's own handler does."""
    prompt = body.get("prompt")
    return (
        bool(body.get("return_tokens_as_token_ids"))
        and isinstance(body.get("logprobs"), int)
        and isinstance(prompt, list)
        and all(isinstance(item, int) for item in cast("list[object]", prompt))
        and set(body) <= _ASKED_BY_ID | {"lora_path"}
    )


def _completion(model: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return an OpenAI completion with token ids, from what `/generate` says.

    Its log-probabilities are triples: number, token id, text.
    """
    told = found["meta_info"]
    tokens = told["output_token_logprobs"]
    tops = told["output_top_logprobs"]
    usage = {"prompt_tokens": told["prompt_tokens"], "completion_tokens": told["completion_tokens"]}
    return {
        "id": told["id"],
        "object": "text_completion",
        "model": model,
        "choices": [
            {
                "index": 0,
                "text": found["text"],
                "finish_reason": (told.get("finish_reason") or {}).get("type"),
                "logprobs": {
                    "tokens": [_by_id(token) for _, token, *_ in tokens],
                    "token_logprobs": [number for number, *_ in tokens],
                    "top_logprobs": [{_by_id(token): number for number, token, *_ in top} for top in tops],
                },
            }
        ],
        "usage": {**usage, "total_tokens": sum(usage.values())},
    }


def _by_id(token: int) -> str:
    return f"token_id:{token}"


async def _read(receive: Receive) -> bytes | None:
    """Return the body of a request; None if it is too large."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)  # the client left: what is not whole is no JSON
        part = bytes(message.get("body", b""))
        size += len(part)
        if size > _MOST_BYTES:
            return None
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def _again(raw: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read already, then what comes: the client's end."""
    given = False

    async def receiving() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": raw, "more_body": False}

    return receiving


def _sized(scope: Message, raw: bytes) -> Message:
    headers = [item for item in scope["headers"] if item[0] != b"content-length"]
    return {**scope, "headers": [*headers, (b"content-length", str(len(raw)).encode())]}


def _openai_errors(send: Send) -> Send:
    """Return a `send` that puts SGLang's errors where OpenAI clients look: below `error`."""
    start: Message = {}
    parts: list[bytes] = []

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= _ERROR_STATUS:
            start.update(message)
            return
        if not start:
            await send(message)
            return
        parts.append(bytes(message.get("body", b"")))
        if message.get("more_body"):
            return
        body = _object(b"".join(parts))
        status = int(start["status"])
        if body is None or "error" in body:
            await _respond(send, status, body if body is not None else _error(_sentence(b"".join(parts)), ""))
        else:
            await _respond(send, status, {"error": body})

    return sending


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        value: object = json.loads(raw)
    except ValueError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _sentence(raw: bytes) -> str:
    """Return what an error body of SGLang says."""
    body = _object(raw) or {}
    error = body.get("error", body)
    told = cast("dict[str, object]", error).get("message") if isinstance(error, dict) else error
    return str(told or raw.decode("utf-8", "replace")[:500])


def _error(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": code or None}}


async def _refuse(send: Send, status: int, message: str, *, code: str) -> None:
    await _respond(send, status, _error(message, code))


async def _respond(send: Send, status: int, body: Mapping[str, Any]) -> None:
    raw = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": raw, "more_body": False})
