"""What the drivers of engines that speak OpenAI HTTP share: real tokens as health, adapters by name.

The engine is asked with plain urllib in a thread: a contract host asks little, and has no need
of an HTTP library for it.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, cast

from tunefleet.backend.v1.server_pb2 import AdapterOrder, EngineOrder
from tunefleet_core.backend.contract import EngineCommand
from tunefleet_core.backend.probe_answers import ProbeAnswers
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["OpenAiDriver", "devices_of", "template_file"]

_HEALTH_SECONDS = 2.0
_TOKEN_SECONDS = 30.0
_PROBE_TOKENS = 8
"""A loop shows in these, and an engine that has much to do spares them."""
_LOAD_SECONDS = 310.0  # engines themselves give up after 300
_CPU, _METAL = "cpu", "metal"


class OpenAiDriver(ABC):
    """Driver of an engine that takes adapters as vLLM does, by name and folder.

    Example:
        class MineDriver(OpenAiDriver):
            def command(self, order: EngineOrder, port: int) -> EngineCommand:
                argv = (sys.executable, "-m", "mine", "--model", order.base_path, "--port", str(port))
                return EngineCommand(argv=argv, address=f"http://127.0.0.1:{port}")
    """

    load_path: ClassVar[str] = "/v1/load_lora_adapter"
    unload_path: ClassVar[str] = "/v1/unload_lora_adapter"
    absent: ClassVar[tuple[int, ...]] = (404,)
    """Statuses by which it says that there is no such adapter to drop."""
    health_path: ClassVar[str] = "/health"
    """What says that it lives before it is asked for tokens; empty: nothing that is worth asking."""
    probe_token: ClassVar[int] = 0
    """A prompt of one token; this one is in every vocabulary, and no tokenizer can make nothing of it."""

    def __init__(self) -> None:
        self._answers = ProbeAnswers()
        # Loopback needs no proxy, and one from the environment would swallow the call.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @abstractmethod
    def command(self, order: EngineOrder, port: int) -> EngineCommand:
        """Return the command that serves `order` on a loopback port."""

    async def is_ready(self, address: str) -> bool:
        """Return whether the engine writes, and not worse than at first: that it listens says neither."""
        try:
            if self.health_path:
                await self.ask(f"{address}{self.health_path}", seconds=_HEALTH_SECONDS)
            listed = json.loads(await self.ask(f"{address}/v1/models", seconds=_HEALTH_SECONDS))
            model = str(listed["data"][0]["id"])
            question = {
                "model": model,
                "prompt": [self.probe_token],
                "max_tokens": _PROBE_TOKENS,
                "temperature": 0,
            }
            answer = json.loads(await self.ask(f"{address}/v1/completions", question, seconds=_TOKEN_SECONDS))
            return self._answers.makes_sense(address, model, str(answer["choices"][0]["text"]))
        except (OSError, ValueError, LookupError, TypeError):
            return False

    async def load_adapter(self, address: str, order: AdapterOrder) -> None:
        """Load an adapter. Raises TunefleetError/BACKEND_FAILED; then nothing has changed."""
        status, answer = await self._post(f"{address}{self.load_path}", self.loading(order))
        if status != 200:
            raise TunefleetError(
                Reason.BACKEND_FAILED,
                f"The engine refused adapter '{order.adapter}': {_message(answer)}",
                hint="Correct what the engine says; what it served before it serves on.",
                metadata={"adapter": order.adapter, "status": str(status)},
            )

    async def unload_adapter(self, address: str, adapter: str) -> None:
        """Drop an adapter; one that is not loaded is nothing to do."""
        status, answer = await self._post(f"{address}{self.unload_path}", {"lora_name": adapter})
        if status != 200 and status not in self.absent:
            raise TunefleetError(
                Reason.BACKEND_FAILED,
                f"The engine did not drop adapter '{adapter}': {_message(answer)}",
                metadata={"adapter": adapter, "status": str(status)},
            )

    def loading(self, order: AdapterOrder) -> dict[str, object]:
        """Return the body that loads an adapter: what the engine takes of the order."""
        return {"lora_name": order.adapter, "lora_path": order.path}

    async def ask(
        self, url: str, body: Mapping[str, object] | None = None, *, seconds: float = _LOAD_SECONDS
    ) -> bytes:
        """Get a URL, or post JSON to it; return the body of the answer.

        Raises:
            OSError: no answer, or one of another status than 2xx (`urllib.error.HTTPError`).
        """
        return await asyncio.to_thread(self._ask, url, body, seconds)

    async def _post(self, url: str, body: Mapping[str, object]) -> tuple[int, bytes]:
        try:
            return 200, await self.ask(url, body)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, await asyncio.to_thread(error.read)
        except (OSError, ValueError) as error:
            raise TunefleetError(
                Reason.BACKEND_FAILED,
                f"The engine does not answer: {error}",
                hint="It is started again by itself; look at its log if it goes on.",
            ) from error

    def _ask(self, url: str, body: Mapping[str, object] | None, seconds: float) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
        with self._opener.open(request, timeout=seconds) as response:
            return bytes(response.read())


def template_file(order: EngineOrder) -> Path | None:
    """Write the chat template of an order beside its other files; None if it has none."""
    if not order.chat_template:
        return None
    file = Path(order.work_dir) / f"{order.engine}.jinja"
    file.write_bytes(order.chat_template.encode())  # as bytes: no line end may change
    return file


def devices_of(device_ids: Sequence[str]) -> str:
    """Return the kind of the devices an engine was given: `cpu`, `metal` or `cuda`; empty: its own choice."""
    if not device_ids:
        return ""
    if all(identifier.startswith(_CPU) for identifier in device_ids):
        return _CPU
    return _METAL if device_ids[0].startswith(_METAL) else "cuda"


def _message(answer: bytes) -> str:
    """Return the sentence of an error body; the body itself if it has none."""
    try:
        body = cast("Mapping[str, object]", json.loads(answer))
        error = body.get("error", body)
        if not isinstance(error, dict):
            return str(error)
        told = cast("Mapping[str, object]", error)
        return str(told["message"] if "message" in told else told["error_message"])  # the second: SGLang
    except (ValueError, KeyError, TypeError, AttributeError):
        return answer.decode("utf-8", "replace")[:500]
