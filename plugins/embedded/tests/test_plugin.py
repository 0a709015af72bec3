"""The glue to tunefleet: manifest, command line, refusals in the engine's words, locks."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Lab
from engine_process import EngineProcess
from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.backend.v1.server_pb2 import AdapterOrder, EngineOrder
from tunefleet_core.errors import Reason, TunefleetError

from tunefleet_embedded.driver import EmbeddedDriver
from tunefleet_embedded.plugin import tunefleet_backends

PLUGINS = Path(__file__).resolve().parents[2]


def test_manifest_names_a_driver_that_can_be_imported_without_torch() -> None:
    (manifest,) = tunefleet_backends()
    assert manifest.name == "embedded"
    assert set(manifest.capabilities) == {
        Capability.CAPABILITY_SERVE,
        Capability.CAPABILITY_LORA_HOTSWAP,
        Capability.CAPABILITY_CONTRACT_CHECK,
        Capability.CAPABILITY_ADAPTER_TEMPLATES,
    }
    module, _, attribute = manifest.engine_entry.partition(":")
    code = (
        f"import sys, {module}, tunefleet_embedded.plugin; {module}.{attribute}();"
        "print({'torch', 'transformers', 'aiohttp'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_locks_are_those_of_trl_so_that_both_share_one_environment() -> None:
    ours, theirs = (
        {file.name: file.read_text() for file in (PLUGINS / folder / "locks").glob("*.txt")}
        for folder in ("embedded/tunefleet_embedded", "trl/tunefleet_trl")
    )
    assert ours
    assert ours == theirs


def order(base: Path, work_dir: Path, **fields: object) -> EngineOrder:
    values = {"engine": "e-1", "base_path": str(base), "served_name": "base", "work_dir": str(work_dir)}
    return EngineOrder(**{**values, **fields})


def test_command_carries_template_context_and_devices(tmp_path: Path) -> None:
    template = "{{ messages }}\r\n"
    wanted = order(tmp_path, tmp_path, chat_template=template, max_context_tokens=64, device_ids=["cpu-0"])
    command = EmbeddedDriver().command(wanted, 1234)
    options = dict(zip(command.argv[3::2], command.argv[4::2], strict=True))
    assert command.argv[:3] == (sys.executable, "-m", "tunefleet_embedded.engine")
    assert options["--max-context"] == "64"
    assert options["--device"] == "cpu"
    assert Path(options["--chat-template"]).read_bytes() == template.encode()
    assert command.environment["OMP_NUM_THREADS"] == "1"
    assert command.address == "http://127.0.0.1:1234"


def test_a_gpu_is_named_by_its_uuid_and_a_large_base_keeps_its_threads(tmp_path: Path) -> None:
    on_gpu = EmbeddedDriver().command(order(tmp_path, tmp_path, device_ids=["GPU-1", "GPU-2"]), 1)
    assert on_gpu.environment["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(300_000_000)
    on_cpu = EmbeddedDriver().command(order(tmp_path, tmp_path, device_ids=["cpu-0"]), 1)
    assert "OMP_NUM_THREADS" not in on_cpu.environment


def test_driver_loads_and_drops_and_repeats(qwen: EngineProcess, qwen_lab: Lab) -> None:
    async def drive() -> None:
        driver = EmbeddedDriver()
        assert await driver.is_ready(qwen.url)
        folder = str(qwen_lab.adapters["a"])
        wanted = AdapterOrder(
            engine="e", adapter="mine@1", path=folder, chat_template="X", stop_token_ids=[3]
        )
        await driver.load_adapter(qwen.url, wanted)
        await driver.load_adapter(qwen.url, wanted)
        messages = [{"role": "user", "content": "hello"}]
        tokens = qwen.post("/tokenize", {"model": "mine@1", "messages": messages}).json()
        assert tokens["count"] == 1  # the adapter's own template, not the base's
        await driver.unload_adapter(qwen.url, "mine@1")
        await driver.unload_adapter(qwen.url, "mine@1")

    asyncio.run(drive())
    assert "mine@1" not in qwen.get("/v1/models").text


def test_refusal_is_told_in_the_engines_words(qwen: EngineProcess, tmp_path: Path) -> None:
    wanted = AdapterOrder(engine="e", adapter="bad@1", path=str(tmp_path))
    with pytest.raises(TunefleetError, match=r"adapter_config\.json") as caught:
        asyncio.run(EmbeddedDriver().load_adapter(qwen.url, wanted))
    assert caught.value.reason is Reason.BACKEND_FAILED


def test_an_engine_that_is_not_there_is_not_ready() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert not asyncio.run(EmbeddedDriver().is_ready(address))
        with pytest.raises(TunefleetError, match="does not answer"):
            asyncio.run(EmbeddedDriver().unload_adapter(address, "x"))
