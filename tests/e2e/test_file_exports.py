"""From an adapter to a GGUF file and to MLX weights: merged in one environment, written in others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from local_fleet import TICKETS, LocalFleet, missing_backend

_MISSING = missing_backend("trl", "gguf", "mlx")

pytestmark = [
    pytest.mark.backend,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(bool(_MISSING), reason=_MISSING),
]


async def test_an_adapter_is_merged_by_who_trained_it_and_written_as_gguf(
    fleet: LocalFleet, tmp_path: Path
) -> None:
    await fleet.done(
        *("train", TICKETS / "job.yaml", "--id", "tickets", "--set", "train.optim.max_steps=30", "--follow")
    )
    told = await fleet.done(
        *("export", "tickets", "--format", "gguf", "--variant", "q8_0", "--id", "small", "--follow")
    )
    assert "nats away from the weights before" in told.stdout + told.stderr
    job = (await fleet.done("jobs", "show", "small")).document("Job")
    assert job["resolved_spec"]["backend"]["name"] == "gguf"
    assert job["resolved_spec"]["merge_backend"]["name"] == "trl"
    assert (await fleet.done("models", "show", "small")).document("Model")["format"] == "gguf/q8_0"
    await fleet.done("models", "fetch", "small", tmp_path / "small")
    with (tmp_path / "small" / "model-q8_0.gguf").open("rb") as stream:
        assert stream.read(4) == b"GGUF"
    contract = json.loads((tmp_path / "small" / "contract.json").read_text())
    assert contract["precision"]["quantization"] == "gguf"


async def test_the_same_adapter_is_written_for_mlx(fleet: LocalFleet, tmp_path: Path) -> None:
    await fleet.done("export", "tickets", "--format", "mlx", "--variant", "8bit", "--id", "apple", "--follow")
    assert (await fleet.done("models", "show", "apple")).document("Model")["format"] == "mlx/8bit"
    await fleet.done("models", "fetch", "apple", tmp_path / "apple")
    config = json.loads((tmp_path / "apple" / "config.json").read_text())
    assert config["quantization"]["bits"] == 8
    assert not list((fleet.state / "services" / "trainer" / "runs").glob("*/merging")), "scratch is gone"
