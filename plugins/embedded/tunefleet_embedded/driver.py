"""How the contract host starts the embedded engine and gives it adapters.

Light: the host has no need of torch or aiohttp to start a process and to post some JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tunefleet.backend.v1.server_pb2 import AdapterOrder, EngineOrder
from tunefleet_core.backend import EngineCommand, OpenAiDriver, devices_of, template_file

__all__ = ["EmbeddedDriver"]

_SMALL_WEIGHTS_BYTES = 200_000_000
"""Up to about 50 million parameters in float32 a CPU is slower with several threads than with one."""


class EmbeddedDriver(OpenAiDriver):
    """Driver of `tunefleet_embedded.engine`."""

    def command(self, order: EngineOrder, port: int) -> EngineCommand:
        """Return the command that serves on a loopback port."""
        options = ["--model", order.base_path, "--host", "127.0.0.1", "--port", str(port)]
        options += ["--served-name", order.served_name]
        if order.max_context_tokens:
            options += ["--max-context", str(order.max_context_tokens)]
        if file := template_file(order):
            options += ["--chat-template", str(file)]
        device = devices_of(order.device_ids)
        if device:
            options += ["--device", "mps" if device == "metal" else device]
        return EngineCommand(
            argv=(sys.executable, "-m", "tunefleet_embedded.engine", *options),
            environment=_environment(order, device),
            address=f"http://127.0.0.1:{port}",
        )

    def loading(self, order: AdapterOrder) -> dict[str, object]:
        """Return an adapter with the template and the stop ids it was trained with."""
        body = super().loading(order)
        if order.chat_template:
            body["chat_template"] = order.chat_template
        if order.stop_token_ids:
            body["stop_token_ids"] = list(order.stop_token_ids)
        return body


def _environment(order: EngineOrder, device: str) -> dict[str, str]:
    environment = {"HF_HUB_OFFLINE": "1"}  # a base is a folder: nothing is to be fetched
    if device == "cuda":
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(order.device_ids)
    elif device == "cpu" and _weights_bytes(Path(order.base_path)) <= _SMALL_WEIGHTS_BYTES:
        environment["OMP_NUM_THREADS"] = "1"
    return environment


def _weights_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
