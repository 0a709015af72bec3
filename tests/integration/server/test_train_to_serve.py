"""The contract between training and serving on the real engine: what was trained, and four ways to be off.

The adapters come from the trl backend, the engine from its environment, both as in any fleet.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from engine_questions import ask, models
from fake_coordinator import FakeCoordinator
from service_process import ServiceProcess

from tunefleet.deployment.v1.deployment_pb2 import ContractState
from tunefleet.fleet.v1.fleet_pb2 import DeploymentAssignment
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.catalog import read_base
from tunefleet_core.environments import Environment, EnvironmentIndex
from tunefleet_core.errors import Reason, TunefleetError, error_from_status
from tunefleet_core.parity import read_contract, write_contract

pytestmark = [pytest.mark.backend, pytest.mark.timeout(300)]

Deploy = Callable[..., DeploymentAssignment]
TRL_PYTHON = os.environ.get("TUNEFLEET_TEST_TRL_PYTHON", "")
VERIFIED = ContractState.CONTRACT_STATE_VERIFIED
REFUSED = ContractState.CONTRACT_STATE_REFUSED
TRAIN_SECONDS = 240
HEADER_LENGTH_BYTES = 8  # of a safetensors file: the length of its JSON header, little-endian


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A base and what was trained on it."""

    base: BaseFacts
    colours: Path
    numbers: Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    if not TRL_PYTHON:
        pytest.skip("TUNEFLEET_TEST_TRL_PYTHON names no environment with torch, trl and the engine")
    folder = tmp_path_factory.mktemp("trained")
    script = Path(__file__).with_name("train_adapters.py")
    result = subprocess.run(
        [TRL_PYTHON, str(script), str(folder)],
        capture_output=True,
        text=True,
        timeout=TRAIN_SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return Trained(
        base=read_base(str(folder / "base")), colours=folder / "colours", numbers=folder / "numbers"
    )


@pytest.fixture
async def trl_server(
    coordinator: FakeCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ServiceProcess]:
    """A server whose state folder names the trl environment, as an installed plugin does."""
    monkeypatch.delenv("TUNEFLEET_ENVS", raising=False)  # the index written here is not for others
    state = tmp_path / "state"
    state.mkdir()
    environment = Environment(digest="0" * 32, python=TRL_PYTHON)
    index = EnvironmentIndex(state)
    index.folder_of(environment.digest).mkdir(parents=True)
    index.add("embedded", environment)
    process = ServiceProcess("tunefleet_services.server", port=coordinator.port, state=state)
    await process.start("--lease-seconds", "4")
    try:
        yield process
    finally:
        await process.clean_up()


def copy_of(adapter: Path, target: Path) -> Path:
    shutil.copytree(adapter, target)
    return target


def with_other_template(adapter: Path, target: Path) -> Path:
    """The record is consistent in itself, but says another template than the ids were made with."""
    folder = copy_of(adapter, target)
    record = read_contract(folder)
    text = record.template.text.replace("<|im_start|>", "<|im_start|> ")
    assert text != record.template.text
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    write_contract(replace(record, template=replace(record.template, text=text, sha256=sha256)), folder)
    (folder / "chat_template.jinja").write_bytes(text.encode())
    return folder


def with_alpha_times_four(adapter: Path, target: Path) -> Path:
    folder = copy_of(adapter, target)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    config["lora_alpha"] *= 4
    file.write_text(json.dumps(config))
    return folder


def with_weights_of(other: Path, adapter: Path, target: Path) -> Path:
    folder = copy_of(adapter, target)
    shutil.copyfile(other / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    return folder


def with_zero_weights(adapter: Path, target: Path) -> Path:
    folder = copy_of(adapter, target)
    file = folder / "adapter_model.safetensors"
    content = file.read_bytes()
    start = HEADER_LENGTH_BYTES + int.from_bytes(content[:HEADER_LENGTH_BYTES], "little")
    file.write_bytes(content[:start] + bytes(len(content) - start))
    return folder


async def test_what_was_trained_is_served_and_nothing_else(
    trained: Trained,
    coordinator: FakeCoordinator,
    trl_server: ServiceProcess,
    tmp_path: Path,
    deploy: Deploy,
) -> None:
    folders = {
        "true": trained.colours,
        "second": trained.numbers,
        "template": with_other_template(trained.colours, tmp_path / "template"),
        "alpha": with_alpha_times_four(trained.colours, tmp_path / "alpha"),
        "swapped": with_weights_of(trained.numbers, trained.colours, tmp_path / "swapped"),
        "zero": with_zero_weights(trained.colours, tmp_path / "zero"),
    }
    wanted = {
        name: deploy(
            name, trained.base, model=name, digest=coordinator.add_artifact(folder), engine="embedded"
        )
        for name, folder in folders.items()
    }
    wanted["base"] = deploy("base", trained.base, engine="embedded")
    await coordinator.want(deployments=wanted.values())

    ready = {name: await coordinator.until_state(name, "READY") for name in ("true", "second")}
    await coordinator.until_state("base", "READY")
    failed = {
        name: await coordinator.until_state(name, "FAILED")
        for name in ("template", "alpha", "swapped", "zero")
    }

    for status in ready.values():
        assert (status.contract.tokens, status.contract.numbers) == (VERIFIED, VERIFIED)
        assert status.contract.distance_to_tuned < 0.001 < status.contract.distance_to_base
    errors: dict[str, TunefleetError] = {name: error_from_status(item.error) for name, item in failed.items()}
    assert errors["template"].reason is Reason.TEMPLATE_MISMATCH
    assert "Reference conversation 0" in errors["template"].message
    assert failed["template"].contract.tokens == REFUSED
    for name, fact in (("alpha", "scale"), ("swapped", "another adapter"), ("zero", "equal the base")):
        assert errors[name].reason is Reason.NUMBERS_MISMATCH
        assert fact in errors[name].message
        assert (failed[name].contract.tokens, failed[name].contract.numbers) == (VERIFIED, REFUSED)

    address = ready["true"].engine_address
    assert len(trl_server.engines()) == 1
    served = {wanted[name].engine_model for name in ("true", "second", "base")}
    assert await asyncio.to_thread(models, address) == served
    for name, question, answer in (("true", "red", "rot"), ("second", "two", "zwei")):
        assert (await asyncio.to_thread(ask, address, wanted[name].engine_model, question)).strip() == answer


@pytest.mark.slow
async def test_adapter_is_checked_again_after_its_engine_died(
    trained: Trained, coordinator: FakeCoordinator, trl_server: ServiceProcess, deploy: Deploy
) -> None:
    digest = coordinator.add_artifact(trained.colours)
    tuned = deploy("tuned", trained.base, model="tuned", digest=digest, engine="embedded")
    await coordinator.want(deployments=[tuned])
    await coordinator.until_state("tuned", "READY")
    (engine,) = trl_server.engines()
    os.kill(engine.engine_pid, signal.SIGKILL)
    await coordinator.until_state("tuned", "STARTING")
    again = await coordinator.until_state("tuned", "READY")
    assert (again.contract.tokens, again.contract.numbers) == (VERIFIED, VERIFIED)
    assert (await asyncio.to_thread(ask, again.engine_address, tuned.engine_model, "red")).strip() == "rot"


@pytest.mark.slow
async def test_base_that_cannot_be_served_fails_with_the_engines_log(
    trained: Trained,
    coordinator: FakeCoordinator,
    trl_server: ServiceProcess,
    tmp_path: Path,
    deploy: Deploy,
) -> None:
    broken = BaseFacts()
    broken.CopyFrom(trained.base)
    broken.path = str(shutil.copytree(trained.base.path, tmp_path / "broken"))
    for weights in Path(broken.path).glob("*.safetensors"):
        weights.write_bytes(b"no weights at all")
    await coordinator.want(deployments=[deploy("broken", broken, engine="embedded")])
    error = error_from_status((await coordinator.until_state("broken", "FAILED")).error)
    assert error.reason is Reason.BACKEND_FAILED
    assert "header" in error.metadata["log"]  # the last words of the library that read the weights
    assert not trl_server.engines()
