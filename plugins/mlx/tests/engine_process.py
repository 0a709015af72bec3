"""A server of models as a process, ours or mlx-lm's own, that ends with its block."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunefleet.deployment.v1.deployment_pb2 import ContractResult
from tunefleet_core.parity import TrainServeContract
from tunefleet_core.ports import free_ports
from tunefleet_services.server.contract_check import check_engine
from tunefleet_services.server.engine_http import EngineHttp

__all__ = ["RunningEngine", "mlx_lm_server", "our_engine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningEngine:
    """Where it listens."""

    address: str

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Return status and body of an answer."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """Return the body of an answer that must come."""
        status, answer = self.post(path, body)
        assert status == 200, answer
        return answer

    def metrics(self) -> dict[str, float]:
        """Return what `/metrics` says, by name."""
        with urllib.request.urlopen(self.address + "/metrics", timeout=60) as response:
            lines = response.read().decode().splitlines()
        return {name: float(value) for name, value in (line.split() for line in lines if line[0] != "#")}

    def load(self, name: str, folder: Path, **more: object) -> tuple[int, Any]:
        """Load an adapter."""
        return self.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder), **more})

    def check(self, model: str, contract: TrainServeContract) -> ContractResult:
        """Hold it to the record of an adapter, as a server service does."""
        return asyncio.run(check_engine(EngineHttp(self.address), model, contract)).result


@contextmanager
def our_engine(base: Path, *options: object) -> Iterator[RunningEngine]:
    """Serve a base as `base`."""
    argv = ["tunefleet_mlx.engine", "--model", base, "--served-name", "base", *options]
    with _running(argv) as (process, _):
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready.startswith("READY "), "the engine did not start"
        yield RunningEngine(address=ready.removeprefix("READY ").strip())


@contextmanager
def mlx_lm_server(base: Path) -> Iterator[RunningEngine]:
    """Serve a base with mlx-lm's own server, on the CPU, without compiling kernels."""
    start = "import sys, mlx.core as mx; mx.set_default_device(mx.cpu); mx.disable_compile(); "
    start += "from mlx_lm.server import main; main()"
    (port,) = free_ports()
    argv = ["--model", base, "--port", port, "--log-level", "WARNING"]
    with _running(argv, interpreted=start) as (process, _):
        running = RunningEngine(address=f"http://127.0.0.1:{port}")
        while process.poll() is None:
            try:
                urllib.request.urlopen(running.address + "/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield running


@contextmanager
def _running(
    argv: Sequence[object], *, interpreted: str = ""
) -> Iterator[tuple[subprocess.Popen[str], None]]:
    how = ["-c", interpreted] if interpreted else ["-m"]
    command = [sys.executable, *how, *map(str, argv)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, None
        finally:
            process.kill()
