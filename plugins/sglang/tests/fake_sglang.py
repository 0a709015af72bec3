"""A fake of SGLang's HTTP application, for machines without its kernels: it serves as 0.5.23 was seen to.

A name it does not know is answered by the base, `lora_path` names an adapter, an adapter is
scaled by `lora_alpha / r` whatever else its configuration says, completions tell texts of tokens
and `/generate` their ids, errors lie bare. Its model is one layer whose adapter has a scale.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from tunefleet_core.parity import (
    TOP_TOKENS,
    AdapterRecord,
    NumbersRecord,
    PrecisionRecord,
    TemplateRecord,
    TopLogprobs,
    TrainServeContract,
)

__all__ = ["ALPHA", "RANK", "FakeSglang", "contract", "listening", "write_adapter"]

RANK, ALPHA = 16, 4.0
_VOCABULARY = 60
_PROMPTS = tuple((number, number + 1, number + 2) for number in range(6))


class FakeSglang:
    """The application, and the adapters that it has loaded: name to scale."""

    def __init__(self) -> None:
        self.adapters: dict[str, float] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def names(self) -> tuple[str, frozenset[str]]:
        """Return what `serve` asks SGLang."""
        return "base", frozenset(self.adapters)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raw = (await receive())["body"]
        try:
            body = json.loads(raw or b"{}")
            status, answer = self._answer(scope["path"], body)
        except ValueError:
            status, answer = 400, {"object": "error", "message": "no JSON", "code": 400}
        data = json.dumps(answer).encode()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": data, "more_body": False})

    def _answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asked.append((path, body))
        name = str(body.get("lora_name", ""))
        if path == "/load_lora_adapter":
            config = json.loads((Path(body["lora_path"]) / "adapter_config.json").read_text())
            if config["r"] > RANK:
                return 400, {"success": False, "error_message": "within the configured `--max-lora-rank`"}
            self.adapters[name] = config["lora_alpha"] / config["r"]
            return 200, {"success": True}
        if path == "/unload_lora_adapter":
            del self.adapters[name]
            return 200, {"success": True}
        if path == "/v1/models":
            return 200, {"data": [{"id": item} for item in ("base", *self.adapters)]}
        scale = self.adapters.get(str(body.get("lora_path")), 0.0)
        if path == "/generate":
            found = _top(body["input_ids"], scale)
            triples = [
                [value, token, "?"] for token, value in zip(found.token_ids, found.logprobs, strict=True)
            ]
            told = {
                "id": "1",
                "prompt_tokens": 3,
                "completion_tokens": 1,
                "finish_reason": {"type": "length"},
            }
            lists = {"output_token_logprobs": triples[:1], "output_top_logprobs": [triples]}
            return 200, {"text": "?", "meta_info": {**told, **lists}}
        if path == "/v1/completions" and any(body["prompt"]):  # SGLang finds token 0 empty
            top = _top(body["prompt"], scale)
            texts = {"?": top.logprobs[0]}  # the texts of many tokens are one
            return 200, {
                "model": body["model"],
                "choices": [{"text": "?", "logprobs": {"top_logprobs": [texts]}}],
            }
        if path == "/v1/chat/completions" and "messages" in body:
            return 200, {"model": body["model"], "choices": [{"message": {"content": f"{scale}"}}]}
        return 400, {"object": "error", "message": f"{path} was asked wrongly", "code": 400}


def _logprobs(prompt: Sequence[int], scale: float) -> list[float]:
    draw = random.Random(str(tuple(prompt)))
    logits = [draw.gauss(0, 2) + scale * draw.gauss(0, 1) for _ in range(_VOCABULARY)]
    total = math.log(sum(map(math.exp, logits)))
    return [value - total for value in logits]


def _top(prompt: Sequence[int], scale: float) -> TopLogprobs:
    values = _logprobs(prompt, scale)
    best = sorted(range(_VOCABULARY), key=lambda token: -values[token])[:TOP_TOKENS]
    return TopLogprobs(token_ids=tuple(best), logprobs=tuple(values[token] for token in best))


def contract(*, rslora: bool = False) -> TrainServeContract:
    """Return the record of an adapter that was trained at its right scale."""
    scale = ALPHA / (math.sqrt(RANK) if rslora else RANK)
    return TrainServeContract(
        base_digest="b" * 64,
        tokenizer_digest="",
        template=TemplateRecord(text="", sha256="", stop_token_ids=(), frozen_time_seconds=0),
        adapter=AdapterRecord(
            rank=RANK, alpha=ALPHA, effective_scale=scale, target_modules=("q_proj",), rslora=rslora
        ),
        precision=PrecisionRecord(dtype="float32", quantization=""),
        tokens=(),
        numbers=tuple(
            NumbersRecord(prompt_token_ids=prompt, tuned=_top(prompt, scale), base=_top(prompt, 0.0))
            for prompt in _PROMPTS
        ),
    )


def write_adapter(folder: Path, **fields: object) -> Path:
    """Write an adapter's folder, with fields of its configuration set."""
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["q_proj"], **fields}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """Serve an ASGI application on a loopback port; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            given = iter([{"type": "http.request", "body": raw, "more_body": False}])
            parts: list[bytes] = []

            async def receive() -> Any:
                return next(given)

            async def send(message: Any) -> None:
                if message["type"] == "http.response.start":
                    self.send_response(message["status"])
                else:
                    parts.append(message["body"])

            headers = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
            scope = {"type": "http", "method": self.command, "path": self.path, "headers": headers}
            asyncio.run(app(scope, receive, send))
            data = b"".join(parts)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
