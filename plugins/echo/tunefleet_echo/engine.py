"""How the contract host starts the echo engine and gives it adapters."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request

from tunefleet.backend.v1.server_pb2 import AdapterOrder, EngineOrder
from tunefleet_core.backend import EngineCommand
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["EchoEngine"]

_CALL_SECONDS = 5.0


class EchoEngine:
    """Driver of `tunefleet_echo.server`."""

    def command(self, order: EngineOrder, port: int) -> EngineCommand:
        """Return the command that serves on a port."""
        argv = (
            sys.executable,
            "-m",
            "tunefleet_echo.server",
            "--port",
            str(port),
            "--model",
            order.served_name,
        )
        return EngineCommand(argv=argv, address=f"http://127.0.0.1:{port}")

    async def is_ready(self, address: str) -> bool:
        """Return whether the engine answers."""
        try:
            await asyncio.to_thread(_call, f"{address}/health", None)
        except OSError:
            return False
        return True

    async def load_adapter(self, address: str, order: AdapterOrder) -> None:
        """Load an adapter: a name and a folder."""
        body = {"lora_name": order.adapter, "lora_path": order.path}
        await self._post(f"{address}/v1/load_lora_adapter", body)

    async def unload_adapter(self, address: str, adapter: str) -> None:
        """Drop an adapter."""
        await self._post(f"{address}/v1/unload_lora_adapter", {"lora_name": adapter})

    async def _post(self, url: str, body: dict[str, str]) -> None:
        try:
            await asyncio.to_thread(_call, url, body)
        except OSError as error:
            raise TunefleetError(Reason.BACKEND_FAILED, f"The echo engine refused: {error}") from error


def _call(url: str, body: dict[str, str] | None) -> None:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback needs no proxy
    with opener.open(request, timeout=_CALL_SECONDS) as response:
        response.read()
