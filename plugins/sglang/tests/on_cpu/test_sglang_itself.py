"""SGLang itself behind the plugin's driver and front, on a processor: its control path, not its kernels.

Runs in the environment of `tunefleet_sglang_on_cpu`; adapters are trained by the trl environment.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tunefleet.backend.v1.server_pb2 import AdapterOrder, EngineOrder
from tunefleet.deployment.v1.deployment_pb2 import ContractResult, ContractState
from tunefleet.type.v1.engine_pb2 import EngineSettings
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import read_contract
from tunefleet_core.ports import free_ports
from tunefleet_core.testing.openai_features import check_or_record, find_features
from tunefleet_services.server.contract_check import check_engine
from tunefleet_services.server.engine_http import EngineHttp
from tunefleet_sglang.driver import SglangDriver
from tunefleet_sglang_on_cpu.driver import OnCpuDriver

pytestmark = pytest.mark.slow  # SGLang takes half a minute to start

TRAINER = Path(__file__).resolve().parents[4] / "tests" / "integration" / "server" / "train_adapters.py"
VERIFIED = ContractState.CONTRACT_STATE_VERIFIED
REFUSED = ContractState.CONTRACT_STATE_REFUSED
_START_SECONDS = 500.0
_HEAD_SIZE = "32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """SGLang, and what was trained for it."""

    address: str
    trained: Path
    driver: SglangDriver

    def load(self, name: str, folder: Path) -> None:
        asyncio.run(self.driver.load_adapter(self.address, AdapterOrder(adapter=name, path=str(folder))))

    def unload(self, name: str) -> None:
        asyncio.run(self.driver.unload_adapter(self.address, name))

    def check(self, model: str, adapter: str = "colours") -> ContractResult:
        contract = read_contract(self.trained / adapter)
        return asyncio.run(check_engine(EngineHttp(self.address), model, contract)).result

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def chat(self, model: str, **more: object) -> tuple[int, Any]:
        messages = [{"role": "user", "content": "red"}]
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 8, **more}
        return self.post("/v1/chat/completions", body)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A base and two adapters that trl trained on it."""
    trl = os.environ.get("TUNEFLEET_TEST_TRL_PYTHON")
    if not trl:
        pytest.skip(
            "adapters are trained by the trl environment: name its python in TUNEFLEET_TEST_TRL_PYTHON"
        )
    trained = tmp_path_factory.mktemp("trained")
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([trl, TRAINER, trained, _HEAD_SIZE], env=plain, check=True, capture_output=True)
    order = EngineOrder(
        engine="one",
        base_path=str(trained / "base"),
        served_name="base@1",
        work_dir=str(trained),
        chat_template=read_contract(trained / "colours").template.text,
        max_context_tokens=1024,  # tools make prompts long
        settings=EngineSettings(max_adapters=3, max_adapter_rank=16, tool_parser="qwen25"),
    )
    driver, (port,) = OnCpuDriver(), free_ports()
    command = driver.command(order, port)
    log = trained / "engine.log"
    with log.open("wb") as file, subprocess.Popen(
        command.argv, env={**plain, **command.environment}, stdout=file, stderr=file, cwd=trained
    ) as process:  # fmt: skip
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not asyncio.run(driver.is_ready(command.address)):
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.3)
            found = Engine(address=command.address, trained=trained, driver=driver)
            for name in ("colours", "numbers"):
                found.load(f"{name}@1", trained / name)
            yield found
        finally:
            process.terminate()


@pytest.mark.parametrize("name", ["colours", "numbers"])
def test_what_was_trained_is_what_is_served(engine: Engine, name: str) -> None:
    found = engine.check(f"{name}@1", name)
    assert (found.tokens, found.numbers) == (VERIFIED, VERIFIED), found.summary
    assert found.distance_to_tuned < 0.01 < found.distance_to_base


@pytest.mark.parametrize("wrong", ["base@1", "numbers@1"])
def test_another_model_in_its_place_is_refused(engine: Engine, wrong: str) -> None:
    assert engine.check(wrong).numbers == REFUSED


def test_rslora_is_served_as_trained_by_the_driver_and_too_weak_without(
    engine: Engine, tmp_path: Path
) -> None:
    folder = tmp_path / "rslora"
    shutil.copytree(engine.trained / "colours", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    # The same scale in the words of rsLoRA: the weights, and so the record, stay what they are.
    same = config["lora_alpha"] / config["r"] * math.sqrt(config["r"])
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": True, "lora_alpha": same}))
    engine.load("driven@1", folder)
    assert engine.check("driven@1").numbers == VERIFIED
    engine.unload("driven@1")
    assert engine.post("/load_lora_adapter", {"lora_name": "bare@1", "lora_path": str(folder)})[0] == 200
    assert engine.check("bare@1").numbers == REFUSED
    engine.unload("bare@1")


def test_names_that_are_not_served_are_not_found(engine: Engine) -> None:
    engine.load("again@2", engine.trained / "colours")
    assert engine.chat("again@2")[0] == 200
    engine.unload("again@2")
    engine.unload("again@2")
    for model in ("again@2", "no-such-model", "base@1:colours@1"):
        for stream in (False, True):
            status, raw = engine.chat(model, stream=stream)
            assert status == 404, raw
            assert json.loads(raw)["error"]["message"]


def test_a_stream_is_the_answer_in_order(engine: Engine) -> None:
    status, raw = engine.chat("colours@1")
    assert status == 200
    said = json.loads(raw)
    assert said["model"] == "colours@1"
    status, raw = engine.chat("colours@1", stream=True)
    assert status == 200
    chunks = [json.loads(line[6:]) for line in raw.decode().splitlines() if line.startswith("data: {")]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert text == said["choices"][0]["message"]["content"] != ""


def test_wrong_requests_and_adapters_are_refused_and_change_nothing(engine: Engine, tmp_path: Path) -> None:
    before = engine.chat("colours@1")[1]
    status, raw = engine.post("/v1/chat/completions", {"model": "base@1"})
    assert status == 400
    assert json.loads(raw)["error"]["message"]
    folder = tmp_path / "dora"
    shutil.copytree(engine.trained / "colours", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    status, raw = engine.post("/load_lora_adapter", {"lora_name": "dora@1", "lora_path": str(folder)})
    assert status == 400
    assert b"DoRA" in raw, "SGLang's own refusal, which the driver's comes before"
    with pytest.raises(TunefleetError, match="DoRA") as caught:
        engine.load("dora@1", folder)
    assert caught.value.reason is Reason.CAPABILITY_UNSUPPORTED
    assert _text(engine.chat("colours@1")[1]) == _text(before)


def test_it_tells_metrics(engine: Engine) -> None:
    with urllib.request.urlopen(engine.address + "/metrics", timeout=60) as response:
        assert b"sglang:" in response.read()


def _text(raw: bytes) -> str:
    return json.loads(raw)["choices"][0]["message"]["content"]


def test_it_takes_what_the_table_says(engine: Engine) -> None:
    check_or_record("sglang", asyncio.run(find_features(engine.address, "colours@1")))
