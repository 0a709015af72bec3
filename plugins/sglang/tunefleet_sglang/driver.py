"""How the contract host starts SGLang and gives it adapters. Does not import sglang."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tunefleet.backend.v1.server_pb2 import AdapterOrder, EngineOrder
from tunefleet_core.backend import EngineCommand, OpenAiDriver
from tunefleet_sglang.adapter_form import write_served
from tunefleet_sglang.command import engine_environment, engine_options

__all__ = ["SglangDriver"]

_START_SECONDS = 1800.0
"""A large base is read from disk, its kernels are compiled and its graphs captured first."""


class SglangDriver(OpenAiDriver):
    """Driver of SGLang's server behind `front`.

    Adapters go by `<model>@<digest>`: a name never stands for other weights than before.
    """

    load_path = "/load_lora_adapter"
    unload_path = "/unload_lora_adapter"
    # SGLang's /health writes a token too, and takes a second at least and twenty at most: it says no more
    # than the question that comes after it, and is slow where the engine is busy.
    health_path = ""
    probe_token = 1  # a prompt of token 0 is an empty one to SGLang

    def command(self, order: EngineOrder, port: int) -> EngineCommand:
        """Return the command that serves on a loopback port."""
        return EngineCommand(
            argv=(sys.executable, "-m", "tunefleet_sglang.serve", *engine_options(order, port)),
            environment=engine_environment(order),
            address=f"http://127.0.0.1:{port}",
            start_seconds=_START_SECONDS,
        )

    async def load_adapter(self, address: str, order: AdapterOrder) -> None:
        """Load an adapter at the scale it was trained with.

        Raises:
            TunefleetError: BACKEND_FAILED, or CAPABILITY_UNSUPPORTED where SGLang would serve
                something else than was trained; then nothing has changed.
        """
        # SGLang reads the folder while it loads, and no more.
        with tempfile.TemporaryDirectory(prefix="tunefleet-sglang-") as scratch:
            folder = await asyncio.to_thread(write_served, Path(order.path), Path(scratch))
            served = AdapterOrder()
            served.CopyFrom(order)
            served.path = str(folder)
            await super().load_adapter(address, served)
