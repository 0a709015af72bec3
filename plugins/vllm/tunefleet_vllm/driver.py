"""How the contract host starts vLLM and gives it adapters. Does not import vllm."""

from __future__ import annotations

import sys

from tunefleet.backend.v1.server_pb2 import EngineOrder
from tunefleet_core.backend import EngineCommand, OpenAiDriver
from tunefleet_vllm.command import engine_environment, engine_options

__all__ = ["VllmDriver"]

_START_SECONDS = 1800.0
"""A large base is read from disk, its kernels are compiled and its graphs captured first."""


class VllmDriver(OpenAiDriver):
    """Driver of vLLM's OpenAI server.

    Adapters go by `<model>@<digest>`: vLLM keeps prefixes by an adapter's name, and a name that
    stood for other weights before would be answered from what those left.
    """

    def command(self, order: EngineOrder, port: int) -> EngineCommand:
        """Return the command that serves on a loopback port."""
        return EngineCommand(
            # Not the `vllm` script: it asks for a distribution of that name, which CPU builds lack.
            argv=(sys.executable, "-m", "vllm.entrypoints.openai.api_server", *engine_options(order, port)),
            environment=engine_environment(order),
            address=f"http://127.0.0.1:{port}",
            start_seconds=_START_SECONDS,
        )
