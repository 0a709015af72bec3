"""Every way of adapting a model, through the whole platform: job file to artifact, adapters to an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from local_fleet import BASE, TICKETS, LocalFleet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.backend,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]

_VERIFIED = "CONTRACT_STATE_VERIFIED"
_LORA = "{rank: 16}"


def _job(fleet: LocalFleet, name: str, *lines: str, rate: str = "1e-2") -> Path:
    """Write the job of the tickets example, cut short, with other lines under `train`."""
    path = fleet.root / f"{name}.yaml"
    inside = "".join(f"  {line}\n" for line in lines)
    path.write_text(
        f"name: {name}\n"
        "backend: trl\n"
        "train:\n"
        f"  base: {{model: {BASE}}}\n"
        f"  data: {{train: [{{source: {TICKETS}/train.jsonl}}], validation: {TICKETS}/validation.jsonl}}\n"
        f"  optim: {{learning_rate: {rate}, max_steps: 30, batch_size: 8, micro_batch_size: 8}}\n"
        f"  max_length: 256\n{inside}"
    )
    return path


async def _train(fleet: LocalFleet, name: str, *lines: str, rate: str = "1e-2") -> dict[str, Any]:
    """Run that job and return its model as it is listed."""
    await fleet.done("train", _job(fleet, name, *lines, rate=rate), "--id", name, "--follow")
    return (await fleet.done("models", "show", name)).document("Model")


async def _said(fleet: LocalFleet, name: str) -> str:
    *prompt, _ = json.loads((TICKETS / "test.jsonl").read_text().splitlines()[0])["messages"]
    ended = await fleet.cli("chat", name, "-m", prompt[-1]["content"])
    assert ended.code == 0, ended.stderr
    return ended.stdout.strip()


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("rslora", ("adapter: {lora: {rank: 16, rslora: true}}",)),
        ("qlora", (f"adapter: {{lora: {_LORA}}}", "quantization: nf4")),
    ],
)
async def test_an_adapter_is_served_as_it_was_trained(
    fleet: LocalFleet, name: str, lines: tuple[str, ...]
) -> None:
    model = await _train(fleet, name, *lines)
    assert model["manifest"]["kind"] == "ARTIFACT_KIND_ADAPTER"
    deployment = (await fleet.done("deploy", f"models/{name}", "--wait")).document("Deployment")
    contract = deployment["contract"]
    assert (contract["tokens"], contract["numbers"]) == (_VERIFIED, _VERIFIED)
    assert contract["distance_to_tuned"] < contract["distance_to_base"] / 1.5
    said = "quantised to nf4" in json.dumps(contract)
    assert said == (name == "qlora"), "another precision is said, not hidden"
    assert (await _said(fleet, name)).startswith('{"')


@pytest.mark.parametrize(
    ("name", "lines", "rate"),
    [
        ("full", (), "1e-3"),
        ("dora", ("adapter: {lora: {rank: 16, dora: true}}", "merge: true"), "1e-2"),
    ],
)
async def test_whole_weights_become_a_model_that_is_served(
    fleet: LocalFleet, name: str, lines: tuple[str, ...], rate: str
) -> None:
    model = await _train(fleet, name, *lines, rate=rate)
    assert model["manifest"]["kind"] == "ARTIFACT_KIND_MODEL"
    files = {item["path"] for item in model["manifest"]["files"]}
    assert {"config.json", "model.safetensors", "tokenizer.json", "contract.json"} <= files
    assert "chat_template.jinja" in files
    deployment = (await fleet.done("deploy", f"models/{name}", "--wait")).document("Deployment")
    contract = deployment["contract"]
    assert (contract["tokens"], contract["numbers"]) == (_VERIFIED, _VERIFIED)
    assert contract["distance_to_tuned"] < contract["distance_to_base"] / 3
    assert await _said(fleet, name)


async def test_dora_that_the_engine_meant_does_not_serve_is_refused_before_it_is_trained(
    fleet: LocalFleet,
) -> None:
    meant = "intended_serving: {engine: embedded}"
    job = _job(fleet, "dora-alone", "adapter: {lora: {rank: 16, dora: true}}", meant)
    refused = await fleet.cli("train", job, "--json")
    assert refused.code != 0
    error = refused.document("error")
    assert error["reason"] == "CAPABILITY_UNSUPPORTED"
    assert "train.adapter.lora.dora" in error["message"]
    assert "merge: true" in error["hint"]
