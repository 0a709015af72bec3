"""An engine as the driver starts it, and what is asked of it; models come from trl's environment."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tunefleet.backend.v1.server_pb2 import AdapterOrder, EngineOrder
from tunefleet.deployment.v1.deployment_pb2 import ContractResult
from tunefleet.type.v1.engine_pb2 import EngineSettings
from tunefleet_core.parity import TrainServeContract, read_contract
from tunefleet_core.ports import free_ports
from tunefleet_services.server.contract_check import check_engine
from tunefleet_services.server.engine_http import EngineHttp
from tunefleet_vllm.driver import VllmDriver

__all__ = ["RunningEngine", "Trained", "running", "said", "settings", "text_of", "train"]

_TRAINER = Path(__file__).resolve().parents[3] / "tests" / "integration" / "server" / "train_adapters.py"
_HEAD_SIZE = 32  # vLLM has no smaller heads on a CPU
_START_SECONDS = 300.0


def settings(**options: object) -> EngineSettings:
    """Return settings with room for the adapters of a test, without compiling kernels first."""
    found = EngineSettings(max_adapters=4, max_adapter_rank=16, tool_parser="hermes")
    found.options.update(
        {"enforce-eager": True, **{name.replace("_", "-"): value for name, value in options.items()}}
    )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A base and what was trained on it, by name."""

    base: Path
    adapters: dict[str, Path]

    def contract(self, name: str) -> TrainServeContract:
        return read_contract(self.adapters[name])

    def order(self, work_dir: Path, **options: object) -> EngineOrder:
        """Return the order of an engine, with the template that was trained: this base brings none."""
        return EngineOrder(
            engine="one",
            base_path=str(self.base),
            served_name="base",
            work_dir=str(work_dir),
            chat_template=self.contract("colours").template.text,
            device_ids=["cpu-0"],
            settings=settings(**options),
        )


def train(folder: Path) -> Trained:
    """Train two adapters with trl on a tiny base whose heads are large enough."""
    python = os.environ.get("TUNEFLEET_TEST_TRL_PYTHON")
    if not python:
        pytest.skip(
            "adapters are trained by the trl environment: name its python in TUNEFLEET_TEST_TRL_PYTHON"
        )
    command = [python, str(_TRAINER), str(folder), str(_HEAD_SIZE)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return Trained(base=folder / "base", adapters={name: folder / name for name in ("colours", "numbers")})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningEngine:
    """Where it listens."""

    address: str
    driver: VllmDriver

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Return status and body of an answer."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """Return the body of an answer that must come."""
        status, answer = self.post(path, body)
        assert status == 200, answer
        return answer

    def get(self, path: str) -> str:
        """Return a page."""
        with urllib.request.urlopen(self.address + path, timeout=60) as response:
            return response.read().decode()

    def models(self) -> set[str]:
        """Return the names it answers to."""
        return {card["id"] for card in json.loads(self.get("/v1/models"))["data"]}

    def load(self, name: str, folder: Path) -> None:
        """Load an adapter as the contract host does."""
        asyncio.run(self.driver.load_adapter(self.address, AdapterOrder(adapter=name, path=str(folder))))

    def unload(self, name: str) -> None:
        """Drop an adapter as the contract host does."""
        asyncio.run(self.driver.unload_adapter(self.address, name))

    def check(self, model: str, contract: TrainServeContract) -> ContractResult:
        """Hold it to the record of an adapter, as a server service does."""
        return asyncio.run(check_engine(EngineHttp(self.address), model, contract)).result


@contextmanager
def running(order: EngineOrder) -> Iterator[RunningEngine]:
    """Start an engine, wait until it has written a token, end it with the block."""
    driver, (port,) = VllmDriver(), free_ports()
    command = driver.command(order, port)
    log = Path(order.work_dir) / "engine.log"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with log.open("wb") as file, subprocess.Popen(
        command.argv, env={**environment, **command.environment}, stdout=file, stderr=file
    ) as process:  # fmt: skip
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not asyncio.run(driver.is_ready(command.address)):
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.3)
            yield RunningEngine(address=command.address, driver=driver)
        finally:
            process.terminate()


def said(model: str, text: str = "red", **more: object) -> dict[str, Any]:
    """Return the body of a greedy chat."""
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": 8, **more}


def text_of(answer: Any) -> str:
    """Return what the first choice says."""
    return answer["choices"][0]["message"]["content"]
