"""An OpenAI-compatible engine that answers what it was asked.

    python -m tunefleet_echo.server --port 8000 --model echo

The answer of a model is its name and the last user message; of the base, the
message alone. One token is one word. A request with `pace_ms` gets its stream at
that pace, a word each so many milliseconds. An adapter that was trained to refuse
(`backend_options.refuses`) is answered for with a status of 500.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

__all__ = ["main"]


class _State:
    """The models the engine has."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.adapters: dict[str, str] = {}
        self.refusing: set[str] = set()
        self.lock = threading.Lock()

    def names(self) -> list[str]:
        with self.lock:
            return [self.base, *self.adapters]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: _State

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send(200, {"status": "ok"})
        elif self.path == "/v1/models":
            models = [
                {"id": name, "object": "model", "created": 0, "owned_by": "echo"}
                for name in self.state.names()
            ]
            self._send(200, {"object": "list", "data": models})
        else:
            self._error(404, f"no such path: {self.path}", "not_found")

    def do_POST(self) -> None:
        try:
            body: Any = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        except ValueError:
            self._error(400, "the body is not JSON", "invalid_json")
            return
        if not isinstance(body, dict):
            self._error(400, "the body is no JSON object", "invalid_json")
            return
        body = cast("dict[str, Any]", body)
        routes = {
            "/v1/chat/completions": self._chat,
            "/v1/load_lora_adapter": self._load,
            "/v1/unload_lora_adapter": self._unload,
        }
        route = routes.get(self.path)
        if route is None:
            self._error(404, f"no such path: {self.path}", "not_found")
        else:
            route(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the engine's log is for faults."""

    def _load(self, body: dict[str, Any]) -> None:
        config = Path(body["lora_path"], "adapter_config.json")
        if not config.is_file():
            self._error(400, f"{body['lora_path']} holds no adapter_config.json", "adapter_invalid")
            return
        refuses = json.loads(config.read_text()).get("refuses", False)
        with self.state.lock:
            self.state.adapters[body["lora_name"]] = body["lora_path"]
            (self.state.refusing.add if refuses else self.state.refusing.discard)(body["lora_name"])
        self._send(200, {"status": "ok"})

    def _unload(self, body: dict[str, Any]) -> None:
        with self.state.lock:
            self.state.adapters.pop(body["lora_name"], None)
        self._send(200, {"status": "ok"})

    def _chat(self, body: dict[str, Any]) -> None:
        model = str(body.get("model", ""))
        if model not in self.state.names():
            self._error(404, f"The model '{model}' does not exist.", "model_not_found")
            return
        if model in self.state.refusing:
            self._error(500, f"The model '{model}' was trained to refuse.", "refused")
            return
        if wrong := _wrong_field(body):
            self._error(400, wrong, "invalid_value")
            return
        words, finish = _cut(_answer(model, self.state.base, body["messages"]), body)
        common = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        if body.get("stream"):
            self._stream(common, words, finish, pause_seconds=(body.get("pace_ms") or 0) / 1e3)
            return
        message = {"role": "assistant", "content": "".join(words)}
        self._send(
            200,
            {
                **common,
                "object": "chat.completion",
                "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
                "usage": {
                    "prompt_tokens": 1,
                    "completion_tokens": len(words),
                    "total_tokens": len(words) + 1,
                },
            },
        )

    def _stream(self, common: dict[str, Any], words: list[str], finish: str, *, pause_seconds: float) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": ""}, None)]
        deltas += [({"content": word}, None) for word in words]
        deltas.append(({}, finish))
        for delta, reason in deltas:
            if delta.get("content"):
                time.sleep(pause_seconds)
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            chunk = {**common, "object": "chat.completion.chunk", "choices": [choice]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _error(self, status: int, message: str, code: str) -> None:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        self._send(status, {"error": error})


def _wrong_field(body: dict[str, Any]) -> str:
    """Return what is wrong with a request; empty if nothing is."""
    messages, limit, pace = body.get("messages"), body.get("max_tokens"), body.get("pace_ms")
    if not isinstance(messages, list) or not all(
        isinstance(item, dict) for item in cast("list[Any]", messages)
    ):
        return "messages: must be a list of objects"
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        return "max_tokens: must be at least 1"
    if pace is not None and (not isinstance(pace, int) or pace < 0):
        return "pace_ms: must be a whole number"
    if body.get("response_format") not in (None, {"type": "text"}):
        return "response_format: this engine holds no answer to a form; leave it out"
    return ""


def _answer(model: str, base: str, messages: list[dict[str, Any]]) -> list[str]:
    """Return the answer in tokens: words, each with the space before it."""
    said: Any = next((item.get("content") for item in reversed(messages) if item.get("role") == "user"), "")
    text = said if isinstance(said, str) else "".join(part.get("text", "") for part in said or ())
    answer: str = text if model == base else f"{model}: {text}"
    words = [str(word) for word in answer.split()] or ["..."]
    return [word if not index else f" {word}" for index, word in enumerate(words)]


def _cut(words: list[str], body: dict[str, Any]) -> tuple[list[str], str]:
    """Return as much of an answer as was asked for, and why it ends there."""
    given: Any = body.get("stop") or []
    stops: list[str] = [given] if isinstance(given, str) else given
    limit = body.get("max_tokens") or len(words)
    kept, finish = words[:limit], "length" if limit < len(words) else "stop"
    text = "".join(kept)
    ends = [text.index(stop) for stop in stops if stop and stop in text]
    if not ends:
        return kept, finish
    cut: list[str] = []
    left = min(ends)
    for word in kept:
        cut.append(word[:left])
        left -= len(cut[-1])
    return [word for word in cut if word], "stop"


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    arguments = parser.parse_args()
    handler = type("Handler", (_Handler,), {"state": _State(arguments.model)})
    server = ThreadingHTTPServer((arguments.host, arguments.port), handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main()
