"""The engine's routes. Nothing here touches an array: requests go to the thread that computes."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from mlx_lm.server import CompletionRequest

from tunefleet_core.errors import TunefleetError
from tunefleet_mlx.engine.answers import AnswerWriter
from tunefleet_mlx.engine.batches import Batches
from tunefleet_mlx.engine.refusal import Refusal
from tunefleet_mlx.engine.rendering import render
from tunefleet_mlx.engine.requests import conversation, one_token, parse_body, parse_generation

__all__ = ["Handler"]

_LOG = logging.getLogger(__name__)
_MOST_BODY_BYTES = 32 * 1024 * 1024
_STARTED = int(time.time())


class Handler(BaseHTTPRequestHandler):
    """One connection. It ends with its answer (HTTP/1.0), so a stream needs no length."""

    def __init__(self, batches: Batches, *args: Any) -> None:
        self._batches = batches
        self._models = batches.model_provider
        self._is_begun = False
        super().__init__(*args)

    def do_GET(self) -> None:
        """List models, tell whether the thread that computes is alive, or what a draft model guessed."""
        routes = {"/v1/models": self._list_models, "/health": self._health, "/metrics": self._show_metrics}
        self._answer(routes)

    def do_POST(self) -> None:
        """Generate, tokenise, load and unload adapters."""
        self._answer(
            {
                "/v1/chat/completions": lambda: self._generate(is_chat=True),
                "/v1/completions": lambda: self._generate(is_chat=False),
                "/tokenize": self._tokenize,
                "/v1/load_lora_adapter": self._load,
                "/v1/unload_lora_adapter": self._unload,
            }
        )

    def log_message(self, format: str, *args: Any) -> None:
        """Write no line per request."""

    def _answer(self, routes: dict[str, Callable[[], None]]) -> None:
        try:
            route = routes.get(self.path)
            if route is None:
                raise Refusal(404, f"There is no {self.command} {self.path} here.")
            route()
        except Refusal as refusal:
            self._refuse(refusal)
        except TunefleetError as error:
            self._refuse(Refusal(400, error.message))
        except (BrokenPipeError, ConnectionResetError):
            pass  # whoever asked has gone; its rows are free already
        except Exception as error:  # an engine says that it failed, and serves on
            _LOG.exception("%s failed", self.path)
            self._refuse(Refusal(500, f"The engine failed on this request: {error}"))

    def _generate(self, *, is_chat: bool) -> None:
        asked = parse_generation(self._body(), is_chat=is_chat, most_tokens=self._models.max_context)
        served = self._models.find(asked.model)
        calls = self._batches.call_readers
        form = calls.form(served.tokenizer, asked.tools, asked.arguments.form)
        reader = calls.reader(served.tokenizer, asked.tools)
        context, responses = self._batches.generate(asked.request, replace(asked.arguments, form=form))
        writer = AnswerWriter(asked, context, lambda token: served.tokenizer.decode([token]), reader)
        try:
            if not asked.stream:
                self._send(200, writer.whole(responses))
                return
            self._begin(200, "text/event-stream; charset=utf-8")
            for chunk in writer.chunks(responses):
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                self.wfile.flush()
            self.wfile.write(b"data: [DONE]\n\n")
        finally:
            context.stop()

    def _list_models(self) -> None:
        cards = [
            {
                "id": served.name,
                "object": "model",
                "created": _STARTED,
                "owned_by": "tunefleet",
                "parent": self._models.base_name if served.folder else None,
                "max_model_len": self._models.max_context,
            }
            for served in self._models.all()
        ]
        self._send(200, {"object": "list", "data": cards})

    def _health(self) -> None:
        if not self._batches.is_healthy:
            raise Refusal(503, "The thread that computes has died; restart the engine.")
        self._send(200, {"status": "ok"})

    def _show_metrics(self) -> None:
        if self._models.draft_model is None:
            raise Refusal(404, "There are no metrics here but those of a draft model, and there is none.")
        data = self._batches.draft_counts.render().encode()
        self._begin(200, "text/plain; version=0.0.4", length=len(data))
        self.wfile.write(data)

    def _tokenize(self) -> None:
        """Answer with the ids of a conversation, by the tokenizer and the template that answer it."""
        body = self._body()
        served = self._models.find(body.get("model", self._models.base_name))
        if "messages" in body:
            kwargs = body.get("chat_template_kwargs")
            ids = render(
                served.tokenizer,
                conversation(body),
                tools=body.get("tools") or None,
                add_generation_prompt=bool(body.get("add_generation_prompt", True)),
                kwargs=kwargs if isinstance(kwargs, dict) else None,
            )
        else:
            ids = served.tokenizer.encode(str(body.get("prompt", "")))
        tokens = [int(one) for one in ids]
        self._send(200, {"count": len(tokens), "max_model_len": self._models.max_context, "tokens": tokens})

    def _load(self) -> None:
        """Serve an adapter once it has written a token; nothing has changed if it has not."""
        body = self._body()
        name = str(body.get("lora_name", ""))
        self._models.add(
            name,
            Path(str(body.get("lora_path", ""))),
            template=str(body.get("chat_template", "")),
            stop_token_ids=tuple(body.get("stop_token_ids", ())),
        )
        try:
            _, responses = self._batches.generate(
                CompletionRequest("text", [0], [], None, None), one_token(name)
            )
            list(responses)
        except Exception as error:
            self._models.remove(name)
            why = getattr(error, "message", "") or str(error)
            raise Refusal(400, f"Adapter '{name}' is refused: {why}") from error
        self._send(200, {"loaded": name})

    def _unload(self) -> None:
        name = str(self._body().get("lora_name", ""))
        self._models.remove(name)
        self._send(200, {"unloaded": name})

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise Refusal(411, "The request has no Content-Length.")
        if int(length) > _MOST_BODY_BYTES:
            raise Refusal(413, f"The body has {length} bytes; {_MOST_BODY_BYTES} are read at most.")
        return parse_body(self.rfile.read(int(length)))

    def _refuse(self, refusal: Refusal) -> None:
        error = {"message": refusal.message, "type": "invalid_request_error", "code": refusal.status}
        if self._is_begun:  # its status line is out already: the error travels as an event
            self.wfile.write(f"data: {json.dumps({'error': error})}\n\n".encode())
        else:
            self._send(refusal.status, {"error": error})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self._begin(status, "application/json", length=len(data))
        self.wfile.write(data)

    def _begin(self, status: int, kind: str, *, length: int | None = None) -> None:
        self._is_begun = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
