"""From an adapter to a checkpoint in a quantisation format: merged in one environment, written in another."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import openai
import pytest
from local_fleet import TICKETS, LocalFleet, missing_backend

pytestmark = [
    pytest.mark.backend,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(bool(missing_backend("trl", "compress")), reason=missing_backend("trl", "compress")),
]

_VLLM = "vllm.entrypoints.openai.api_server"
_SHORT = ("--set", "train.optim.max_steps=30")


async def succeeded(fleet: LocalFleet, name: str) -> dict[str, object]:
    job = (await fleet.done("jobs", "show", name)).document("Job")
    assert job["state"] == "JOB_STATE_SUCCEEDED", job.get("error")
    return job


async def test_an_adapter_is_merged_by_who_trained_it_and_written_in_gptq(fleet: LocalFleet) -> None:
    await fleet.done("train", TICKETS / "job.yaml", "--id", "tickets", *_SHORT, "--follow")
    told = await fleet.done("export", "tickets", "--format", "gptq", "--id", "small", "--follow")
    job = await succeeded(fleet, "small")
    resolved = job["resolved_spec"]
    assert resolved["backend"]["name"] == "compress"
    assert resolved["merge_backend"]["name"] == "trl"
    assert resolved["backend"]["environment_digest"] != resolved["merge_backend"]["environment_digest"]
    assert "answers as the tuned model did" in told.stdout + told.stderr, (
        "the merge is checked by its numbers"
    )
    assert "nats away from the weights before" in told.stdout + told.stderr, (
        "and what the format cost is told"
    )
    model = (await fleet.done("models", "show", "small")).document("Model")
    assert (model["kind"], model["format"]) == ("model", "gptq")
    adapter = (await fleet.done("models", "show", "tickets")).document("Model")
    for field in ("base_digest", "tokenizer_digest", "template_digest", "dataset_digests"):
        assert model["manifest"]["lineage"][field] == adapter["manifest"]["lineage"][field], field
    listed = await fleet.cli("models", "list", "--plain")
    assert "model (gptq)" in listed.stdout
    assert not list((fleet.state / "services" / "trainer" / "runs").glob("*/merging")), "scratch is gone"


async def test_what_was_written_is_fetched_as_a_checkpoint(fleet: LocalFleet, tmp_path: Path) -> None:
    await fleet.done("models", "fetch", "small", tmp_path / "small")
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    contract = json.loads((tmp_path / "small" / "contract.json").read_text())
    assert contract["numbers"]


@pytest.mark.skipif(bool(missing_backend("vllm")), reason=missing_backend("vllm"))
async def test_what_was_written_is_served_by_vllm_and_answers(fleet: LocalFleet) -> None:
    refused = await fleet.cli("deploy", "models/small", "--engine", "embedded")
    assert "does not load models stored as gptq" in refused.stderr
    assert "Choose an engine that does" in refused.stderr
    # No engine and no number type is named: which can load the format is known, and computes it in what.
    await fleet.done("deploy", "models/small", "--set", "options.enforce-eager=true", "--wait")
    contract = (await fleet.done("deployments", "get", "small")).document("Deployment")["contract"]
    assert (contract["tokens"], contract["numbers"]) == ("CONTRACT_STATE_VERIFIED",) * 2
    assert fleet.processes(_VLLM)
    *prompt, _ = json.loads((TICKETS / "test.jsonl").read_text().splitlines()[0])["messages"]

    def ask() -> str:
        token = fleet.token("admin")
        with openai.OpenAI(base_url=f"{fleet.gateway}/v1", api_key=token, max_retries=0) as client:
            answer = client.chat.completions.create(
                model="small", messages=prompt, temperature=0, max_tokens=40
            )
            return str(answer.choices[0].message.content)

    assert (await asyncio.to_thread(ask)).startswith('{"')
    await fleet.done("deployments", "delete", "small")
    await fleet.until(lambda: not fleet.processes(_VLLM), "the engine is gone", 30)


async def test_a_whole_model_is_written_in_fp8(fleet: LocalFleet) -> None:
    await fleet.done("export", "tickets", "--dtype", "float32", "--id", "whole", "--follow")
    await fleet.done("export", "whole", "--format", "fp8", "--id", "whole-fp8", "--follow")
    job = await succeeded(fleet, "whole-fp8")
    assert "merge_backend" not in job["resolved_spec"]
    assert (await fleet.done("models", "show", "whole-fp8")).document("Model")["format"] == "fp8"


async def test_what_cannot_end_well_is_refused_at_submit(fleet: LocalFleet) -> None:
    for arguments, said in (
        (("tickets", "--format", "gtpq"), "did you mean 'gptq'"),
        (("small", "--format", "fp8"), "stored quantised already"),
        (("tickets", "--format", "gptq", "--backend", "trl"), "does not write the format 'gptq'"),
    ):
        refused = await fleet.cli("export", *arguments)
        assert refused.code, arguments
        assert said in refused.stderr
