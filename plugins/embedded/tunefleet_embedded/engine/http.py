"""HTTP routes of the engine. Nothing here touches the model: requests become sequences for the scheduler."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from tunefleet_embedded.engine.adapters import ModelRegistry
from tunefleet_embedded.engine.errors import ApiError
from tunefleet_embedded.engine.fields import Fields
from tunefleet_embedded.engine.generation import Generation, Generator
from tunefleet_embedded.engine.metrics import Metrics
from tunefleet_embedded.engine.model import BaseModel
from tunefleet_embedded.engine.openai_answers import DONE
from tunefleet_embedded.engine.openai_schema import (
    GenerationRequest,
    parse_chat,
    parse_completion,
    parse_tokenize,
)

_log = logging.getLogger(__name__)
_MOST_BODY_BYTES = 32 * 1024 * 1024
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Routes:
    """The handlers, over one registry and one generator."""

    def __init__(
        self,
        base: BaseModel,
        *,
        registry: ModelRegistry,
        generator: Generator,
        metrics: Metrics,
        api_key: str | None,
    ) -> None:
        self._base = base
        self._registry = registry
        self._generator = generator
        self._metrics = metrics
        self._api_key = api_key
        self._started = int(time.time())

    def application(self) -> web.Application:
        """The aiohttp application with every route."""
        app = web.Application(
            middlewares=[_errors_in_openai_shape, self._check_key], client_max_size=_MOST_BODY_BYTES
        )
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/metrics", self._show_metrics),
                web.get("/v1/models", self._list_models),
                web.get("/v1/models/{name:.+}", self._get_model),
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/completions", self._complete),
                web.post("/v1/load_lora_adapter", self._load_adapter),
                web.post("/v1/unload_lora_adapter", self._unload_adapter),
                web.post("/tokenize", self._tokenize),
                web.post("/detokenize", self._detokenize),
            ]
        )
        return app

    @web.middleware
    async def _check_key(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if self._api_key is not None and request.path != "/health":
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._api_key.encode()):
                raise ApiError(
                    "The API key is missing or wrong; send it as 'Authorization: Bearer <key>'.",
                    status=401,
                    kind="authentication_error",
                    code="invalid_api_key",
                )
        return await handler(request)

    async def _health(self, _request: web.Request) -> web.Response:
        if not self._generator.is_alive:
            raise ApiError(
                "The scheduler thread has died; restart the engine.", status=503, kind="server_error"
            )
        return web.json_response({"status": "ok"})

    async def _show_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            text=self._metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"}
        )

    async def _list_models(self, _request: web.Request) -> web.Response:
        cards = [self._card(model.name) for model in self._registry.all()]
        return web.json_response({"object": "list", "data": cards})

    async def _get_model(self, request: web.Request) -> web.Response:
        return web.json_response(self._card(request.match_info["name"]))

    def _card(self, name: str) -> dict[str, Any]:
        model = self._registry.find(name)
        return {
            "id": model.name,
            "object": "model",
            "created": self._started,
            "owned_by": "tunefleet",
            "root": str(model.path),
            "parent": None if model.slot is None else self._base.name,
            "max_model_len": self._base.max_context,
        }

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, parse_chat(await _json(request)))

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, parse_completion(await _json(request)))

    async def _generate(self, request: web.Request, wanted: GenerationRequest) -> web.StreamResponse:
        model = self._registry.find(wanted.model)
        outcome = "error"
        try:
            generation = await self._generator.start(wanted, model)
            with generation:
                if wanted.stream:
                    response = await _stream(request, generation)
                else:
                    response = web.json_response(await generation.whole())
            outcome = "ok"
            return response
        except ApiError as error:
            outcome = "refused" if error.status < 500 else "error"
            raise
        except (asyncio.CancelledError, ConnectionResetError):
            outcome = "cancelled"
            raise
        finally:
            self._metrics.requests[(model.name, outcome)] += 1

    async def _load_adapter(self, request: web.Request) -> web.Response:
        fields = Fields(await _json(request))
        name = fields.string("lora_name")
        await self._registry.load(
            name,
            Path(fields.string("lora_path")),
            chat_template=fields.optional_string("chat_template"),
            stop_token_ids=fields.token_ids("stop_token_ids"),
        )
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload_adapter(self, request: web.Request) -> web.Response:
        name = Fields(await _json(request)).string("lora_name")
        await self._registry.unload(name)
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _tokenize(self, request: web.Request) -> web.Response:
        wanted = parse_tokenize(await _json(request))
        model = self._registry.find(wanted.model or self._base.name)
        ids = await self._generator.encode(wanted.prompt, model, add_special_tokens=wanted.add_special_tokens)
        return web.json_response({"count": len(ids), "max_model_len": self._base.max_context, "tokens": ids})

    async def _detokenize(self, request: web.Request) -> web.Response:
        fields = Fields(await _json(request))
        self._registry.find(fields.optional_string("model") or self._base.name)
        ids = fields.token_ids("tokens")
        if ids is None:
            raise ApiError("'tokens' must be a list of token ids.", param="tokens")
        return web.json_response({"prompt": self._base.backend.decode(ids, skip_special_tokens=False)})


async def _stream(request: web.Request, generation: Generation) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    )
    await response.prepare(request)
    async for events in generation.events():
        await response.write(events.encode())
    await response.write(DONE)
    await response.write_eof()
    return response


async def _json(request: web.Request) -> Any:
    try:
        return json.loads(await request.read())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ApiError(f"The body is no JSON: {error}", code="invalid_json") from error


@web.middleware
async def _errors_in_openai_shape(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return web.json_response(error.body(), status=error.status)
    except web.HTTPException as error:
        wrapped = ApiError(f"{request.method} {request.path}: {error.reason}.", status=error.status)
        return web.json_response(wrapped.body(), status=error.status)
    except ConnectionResetError:
        raise
    except Exception:
        _log.exception("%s %s failed", request.method, request.path)
        internal = ApiError(
            "The engine failed on this request; see its log.", status=500, kind="server_error"
        )
        return web.json_response(internal.body(), status=500)
