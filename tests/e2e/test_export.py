"""From an adapter to a whole model that is served as it was trained; nothing of it a stand-in."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path

import pytest
from local_fleet import TICKETS, LocalFleet

pytestmark = [
    pytest.mark.backend,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
]

_VERIFIED = "CONTRACT_STATE_VERIFIED"
_SHORT = ("--set", "train.optim.max_steps=30")
_MOST_NATS = 0.02  # between the adapter on its base and the merged model, both in float32


def job_file(folder: Path, name: str, work: dict[str, object]) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"name": name, **work}))
    return path


def export_file(folder: Path, model: str, **fields: object) -> Path:
    return job_file(
        folder, f"whole-{model}", {"export": {"model": {"model": f"models/{model}"}, "merge": fields}}
    )


async def succeeded(fleet: LocalFleet, name: str) -> dict[str, object]:
    job = (await fleet.done("jobs", "show", name)).document("Job")
    assert job["state"] == "JOB_STATE_SUCCEEDED", job.get("error")
    return job


async def top_logprobs(fleet: LocalFleet, model: str, prompt: str) -> dict[str, float]:
    question = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 20}
    headers = {"Authorization": f"Bearer {fleet.token('admin')}", "Content-Type": "application/json"}
    request = urllib.request.Request(
        f"{fleet.gateway}/v1/completions", json.dumps(question).encode(), headers
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback needs no proxy

    def ask() -> dict[str, float]:
        with opener.open(request, timeout=60) as reply:
            return json.load(reply)["choices"][0]["logprobs"]["top_logprobs"][0]

    return await asyncio.to_thread(ask)


async def test_a_merged_model_is_served_as_its_adapter_is(fleet: LocalFleet) -> None:
    await fleet.done("train", TICKETS / "job.yaml", "--id", "tickets", *_SHORT, "--follow")
    # In float32: the base is stored in bfloat16, and rounding to it turns ties into other answers.
    await fleet.done(
        "train", export_file(fleet.root, "tickets", dtype="float32"), "--id", "whole", "--follow"
    )
    job = await succeeded(fleet, "whole")
    model = (await fleet.done("models", "show", "whole")).document("Model")
    assert model["kind"] == "model"
    lineage = model["manifest"]["lineage"]
    adapter = (await fleet.done("models", "show", "tickets")).document("Model")
    assert lineage["job"] == job["name"]
    for field in ("base_model", "base_digest", "tokenizer_digest", "template_digest", "dataset_digests"):
        assert lineage[field] == adapter["manifest"]["lineage"][field], field
    for name in ("tickets", "whole"):
        made = (await fleet.done("deploy", f"models/{name}", "--wait")).document("Deployment")
        contract = made["contract"]
        assert (contract["tokens"], contract["numbers"]) == (_VERIFIED, _VERIFIED), contract
    assert len(fleet.processes("tunefleet_embedded.engine")) == 2
    *asked, _ = json.loads((TICKETS / "test.jsonl").read_text().splitlines()[0])["messages"]
    one, other = await asyncio.gather(
        *(top_logprobs(fleet, name, asked[-1]["content"]) for name in ("tickets", "whole"))
    )
    shared = one.keys() & other.keys()
    assert len(shared) >= 18
    assert max(abs(one[token] - other[token]) for token in shared) < _MOST_NATS
    system, user = (message["content"] for message in asked)
    ask = ("-m", user, "--system", system, "--temperature", "0")
    said = [await fleet.cli("chat", name, *ask) for name in ("tickets", "whole")]
    assert said[0].stdout.startswith('{"')
    assert said[0].stdout == said[1].stdout
    await fleet.done("deployments", "delete", "tickets")
    await fleet.done("deployments", "delete", "whole")


async def test_a_whole_model_is_scored_and_trained_on(fleet: LocalFleet) -> None:
    rows = [json.loads(line) for line in (TICKETS / "test.jsonl").read_text().splitlines()[:8]]
    data = fleet.root / "few.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores: list[object] = []
    for name in ("tickets", "whole"):
        work = {"evaluate": {"model": {"model": f"models/{name}"}, "data": str(data)}}
        file = job_file(fleet.root, f"score-{name}", work)
        await fleet.done("train", file, "--id", f"score-{name}", "--follow")
        scores.append((await succeeded(fleet, f"score-{name}"))["result"]["scores"])
    assert scores[0] == scores[1]
    onto = ("--set", "train.base.model=models/whole", "--set", "train.optim.max_steps=5")
    await fleet.done("train", TICKETS / "job.yaml", "--id", "further", *onto, "--follow")
    await succeeded(fleet, "further")
    made = (await fleet.done("deploy", "models/further", "--wait")).document("Deployment")
    assert made["contract"]["tokens"] == _VERIFIED
    await fleet.done("deployments", "delete", "further")
    refused = await fleet.cli("train", TICKETS / "job.yaml", "--set", "train.base.model=models/tickets")
    assert refused.code
    assert "an adapter is not a base" in refused.stderr
    refused = await fleet.cli("train", export_file(fleet.root, "whole"))
    assert "a whole model already" in refused.stderr


@pytest.mark.parametrize("form", ["dora", "rslora", "nf4"])
async def test_a_run_that_merges_is_served_whole(fleet: LocalFleet, form: str) -> None:
    how = "train.quantization=nf4" if form == "nf4" else f"train.adapter.lora.{form}=true"
    merge = ("--set", "train.merge=true", "--set", how)
    if form == "nf4" and "QLORA_NF4" in (await fleet.cli("plan", TICKETS / "job.yaml", *merge)).stderr:
        pytest.skip("this environment has no bitsandbytes")
    await fleet.done("train", TICKETS / "job.yaml", "--id", form, *_SHORT, *merge, "--follow")
    await succeeded(fleet, form)
    made = (await fleet.done("deploy", f"models/{form}", "--wait")).document("Deployment")
    contract = made["contract"]
    assert (contract["tokens"], contract["numbers"]) == (_VERIFIED, _VERIFIED), contract
    await fleet.done("deployments", "delete", form)


async def test_an_export_that_is_killed_is_tried_again_and_leaves_nothing_half(fleet: LocalFleet) -> None:
    await fleet.warmed("trl")
    # Looked for before, and watched from before: what writes may have ended while somebody looks around.
    waiting = fleet.processes("tunefleet_core.worker.rank")
    runs = fleet.state / "services" / "trainer" / "runs"

    async def kill_what_writes() -> None:
        while not any(runs.glob("*/output.partial")):
            await asyncio.sleep(0.002)
        for process in waiting:
            process.kill()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(kill_what_writes())
        await fleet.done("train", export_file(fleet.root, "tickets", dtype="float32"), "--id", "killed")
    await fleet.done("jobs", "watch", "killed")
    job = await succeeded(fleet, "killed")
    assert job["attempt"] >= 2
    assert not list(runs.glob("*/output.partial"))
    files = (await fleet.done("models", "show", "killed")).document("Model")["manifest"]["files"]
    once = (await fleet.done("models", "show", "whole")).document("Model")["manifest"]["files"]
    assert files == once, "the same bytes as an export that nobody disturbed"


async def test_mini_does_the_whole_chain_and_cleans_up(fleet: LocalFleet) -> None:
    job = TICKETS / "job.yaml"
    found = (await fleet.done("train", job, "--mini", "--id", "small")).document("mini.v1.Mini")
    assert found["rows"] == 100
    assert found["tuned"]
    assert found["tuned"] != found["base"]
    listed = await fleet.cli("deployments", "list")
    assert "small" not in listed.stdout
    made = await succeeded(fleet, "small")
    assert int(made["progress"]["total_steps"]) == 13
    told = await fleet.cli("train", job, "--mini")
    assert told.code == 0
    assert "Ready for the full run" in told.stderr
    assert f"tunefleet train {job}" in told.stderr
