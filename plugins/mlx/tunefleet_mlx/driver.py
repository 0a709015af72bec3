"""How the contract host starts the engine of this backend and gives it adapters. Does not import mlx."""

from __future__ import annotations

import sys

from tunefleet.backend.v1.server_pb2 import AdapterOrder, EngineOrder
from tunefleet_core.backend import EngineCommand, OpenAiDriver, devices_of, template_file

__all__ = ["MlxDriver"]


class MlxDriver(OpenAiDriver):
    """Driver of `tunefleet_mlx.engine`."""

    def command(self, order: EngineOrder, port: int) -> EngineCommand:
        """Return the command that serves on a loopback port."""
        options = ["--model", order.base_path, "--served-name", order.served_name, "--port", str(port)]
        if order.max_context_tokens:
            options += ["--max-context", str(order.max_context_tokens)]
        if file := template_file(order):
            options += ["--chat-template", str(file)]
        if order.settings.HasField("speculation"):
            guessing = order.settings.speculation
            options += ["--draft-model", guessing.draft_model, "--draft-tokens", str(guessing.tokens)]
        device = devices_of(order.device_ids)
        if device:
            options += ["--device", device]
        return EngineCommand(
            argv=(sys.executable, "-m", "tunefleet_mlx.engine", *options),
            address=f"http://127.0.0.1:{port}",
        )

    def loading(self, order: AdapterOrder) -> dict[str, object]:
        """Return an adapter with the template and the stop ids it was trained with."""
        return {
            **super().loading(order),
            "chat_template": order.chat_template,
            "stop_token_ids": list(order.stop_token_ids),
        }
