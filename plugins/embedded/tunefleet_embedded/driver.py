"""How the contract host starts the embedded engine and gives it adapters.

Light: the host has no need of torch or aiohttp to start a process and to post some JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunefleet.backend.v1.server_pb2 import AdapterOrder, EngineOrder
from tunefleet_core.backend import EngineCommand
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["EmbeddedDriver"]

_HEALTH_SECONDS = 2.0
_LOAD_SECONDS = 310.0  # the engine itself gives up after 300
_SMALL_WEIGHTS_BYTES = 200_000_000
"""Up to about 50 million parameters in float32 a CPU is slower with several threads than with one."""


class EmbeddedDriver:
    """Driver of `tunefleet_embedded.engine`."""

    def __init__(self) -> None:
        # Loopback needs no proxy, and one from the environment would swallow the call.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def command(self, order: EngineOrder, port: int) -> EngineCommand:
        """Return the command that serves on a loopback port."""
        options = ["--model", order.base_path, "--host", "127.0.0.1", "--port", str(port)]
        options += ["--served-name", order.served_name]
        if order.max_context_tokens:
            options += ["--max-context", str(order.max_context_tokens)]
        if order.chat_template:
            file = Path(order.work_dir) / f"{order.engine}.jinja"
            file.write_bytes(order.chat_template.encode())  # as bytes: no line end may change
            options += ["--chat-template", str(file)]
        device = _device(order.device_ids)
        if device:
            options += ["--device", device]
        return EngineCommand(
            argv=(sys.executable, "-m", "tunefleet_embedded.engine", *options),
            environment=_environment(order, device),
            address=f"http://127.0.0.1:{port}",
        )

    async def is_ready(self, address: str) -> bool:
        """Return whether the engine answers."""
        try:
            await asyncio.to_thread(self._ask, f"{address}/health", None, _HEALTH_SECONDS)
        except (OSError, ValueError):
            return False
        return True

    async def load_adapter(self, address: str, order: AdapterOrder) -> None:
        """Load an adapter with the template and the stop ids it was trained with."""
        body: dict[str, object] = {"lora_name": order.adapter, "lora_path": order.path}
        if order.chat_template:
            body["chat_template"] = order.chat_template
        if order.stop_token_ids:
            body["stop_token_ids"] = list(order.stop_token_ids)
        status, answer = await self._post(f"{address}/v1/load_lora_adapter", body)
        if status != 200:
            raise TunefleetError(
                Reason.BACKEND_FAILED,
                f"The engine refused adapter '{order.adapter}': {_message(answer)}",
                hint="Correct what the engine says; what it served before it serves on.",
                metadata={"adapter": order.adapter, "status": str(status)},
            )

    async def unload_adapter(self, address: str, adapter: str) -> None:
        """Drop an adapter; one that is not loaded is nothing to do."""
        status, answer = await self._post(f"{address}/v1/unload_lora_adapter", {"lora_name": adapter})
        if status not in (200, 404):
            raise TunefleetError(
                Reason.BACKEND_FAILED,
                f"The engine did not drop adapter '{adapter}': {_message(answer)}",
                metadata={"adapter": adapter, "status": str(status)},
            )

    async def _post(self, url: str, body: Mapping[str, object]) -> tuple[int, bytes]:
        try:
            return 200, await asyncio.to_thread(self._ask, url, body, _LOAD_SECONDS)
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


def _device(device_ids: Sequence[str]) -> str:
    """Return the engine's word for the devices it may use; empty: its own choice."""
    if not device_ids:
        return ""
    if all(identifier.startswith("cpu") for identifier in device_ids):
        return "cpu"
    return "mps" if device_ids[0].startswith("metal") else "cuda"


def _environment(order: EngineOrder, device: str) -> dict[str, str]:
    environment = {"HF_HUB_OFFLINE": "1"}  # a base is a folder: nothing is to be fetched
    if device == "cuda":
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(order.device_ids)
    elif device == "cpu" and _weights_bytes(Path(order.base_path)) <= _SMALL_WEIGHTS_BYTES:
        environment["OMP_NUM_THREADS"] = "1"
    return environment


def _weights_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _message(answer: bytes) -> str:
    """Return the sentence of an OpenAI error body; the body itself if it is none."""
    try:
        return str(json.loads(answer)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.decode("utf-8", "replace")[:500]
