"""What cannot work is refused when it is submitted: exit code, fact, and the next step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from local_fleet import BASE, TICKETS, LocalFleet

from tunefleet_core.testing.conformance.tiny_base import write_base

pytestmark = [pytest.mark.backend, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

_FAILED = 1


def _rows_with_unknown_role(folder: Path) -> str:
    rows = (TICKETS / "train.jsonl").read_text().splitlines()[:8]
    fifth = json.loads(rows[4])
    fifth["messages"][1]["role"] = "usr"
    rows[4] = json.dumps(fifth)
    path = folder / "roles.jsonl"
    path.write_text("\n".join(rows) + "\n")
    return f"train.data.train[0].source={path}"


def _rows_without_answer(folder: Path) -> str:
    rows = [json.loads(line) for line in (TICKETS / "train.jsonl").read_text().splitlines()[:8]]
    path = folder / "unanswered.jsonl"
    path.write_text("".join(json.dumps({"messages": row["messages"][:-1]}) + "\n" for row in rows))
    return f"train.data.train[0].source={path}"


def _base_that_marks_another_role(folder: Path) -> str:
    """Its template marks what `model` says; the rows say `assistant`, so nothing would be trained."""
    base = copy_of_base(folder / "other-role")
    template = base / "chat_template.jinja"
    text = template.read_text()
    assert "'assistant'" in text
    template.write_text(text.replace("== 'assistant'", "== 'model'"))
    return f"train.base.model={base}"


def _adapter_folder(folder: Path) -> str:
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    return f"train.base.model={adapter}"


def copy_of_base(folder: Path) -> Path:
    """Return a copy of the base that a test may change."""
    shutil.copytree(BASE, folder)
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An override of the job file and what must be said to it."""

    override: object
    reason: str
    message: Sequence[str]
    hint: Sequence[str]


_REFUSALS = {
    "unknown-role": Refusal(
        override=_rows_with_unknown_role,
        reason="DATA_INVALID",
        message=("roles.jsonl:5", "messages[1].role", "'user'"),
        hint=("line 5", "roles.jsonl"),
    ),
    "no-answer": Refusal(
        override=_rows_without_answer,
        reason="DATA_INVALID",
        message=("unanswered.jsonl:1", "'assistant'", "system, user"),
        hint=("'assistant' turn",),
    ),
    "no-trained-token": Refusal(
        override=_base_that_marks_another_role,
        reason="NO_TRAINED_TOKEN",
        message=("None of the", "400 rows", "assistant"),
        hint=("train.loss_on: all",),
    ),
    "too-long": Refusal(
        override="train.max_length=24",
        reason="DATA_INVALID",
        message=("400 of 400 rows are longer than 24 tokens",),
        hint=("train.over_long: drop",),
    ),
    "missing-base": Refusal(
        override="train.base.model=/nowhere/at-all",
        reason="BASE_INVALID",
        message=("no model folder", "/nowhere/at-all"),
        hint=("Hub id",),
    ),
    "adapter-as-base": Refusal(
        override=_adapter_folder,
        reason="BASE_INVALID",
        message=("an adapter is not a base", "some/base"),
        hint=("base.model",),
    ),
    "unknown-backend": Refusal(
        override="backend=tlr",
        reason="BACKEND_NOT_INSTALLED",
        message=("'tlr'", "did you mean 'trl'"),
        hint=("backend: trl",),
    ),
    "unknown-field": Refusal(
        override="train.optim.learning_rat=0.1",
        reason="FIELD_INVALID",
        message=("train.optim.learning_rat", "did you mean 'learning_rate'"),
        hint=("Fields of train.optim",),
    ),
    "unknown-target": Refusal(
        override='train.adapter.lora.targets=["q_prog"]',
        reason="FIELD_INVALID",
        message=("q_prog",),
        hint=("q_proj",),
    ),
}
_QUICK = ("unknown-role", "missing-base", "unknown-backend", "unknown-target")
"""One each of the rows, the base, the backend and the model."""


@pytest.mark.parametrize(
    "case", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in _REFUSALS]
)
async def test_job_is_refused_at_submit(fleet: LocalFleet, tmp_path: Path, case: str) -> None:
    refusal = _REFUSALS[case]
    override = refusal.override(tmp_path) if callable(refusal.override) else refusal.override
    arguments = ("train", TICKETS / "job.yaml", "--set", override)
    before = await _job_count(fleet)

    ended = await fleet.cli(*arguments, "--json")
    assert ended.code == _FAILED
    error = ended.document("error")
    assert error["reason"] == refusal.reason
    for words in refusal.message:
        assert words in error["message"]
    for words in refusal.hint:
        assert words in error["hint"]

    for_people = await fleet.cli(*arguments)
    assert for_people.code == _FAILED
    assert for_people.stdout == ""  # data goes there, and there is none
    assert for_people.stderr.startswith("✗ ")
    assert f"({refusal.reason})" in for_people.stderr
    assert "Next step:" in for_people.stderr
    assert "Traceback" not in for_people.stderr
    assert await _job_count(fleet) == before


async def _job_count(fleet: LocalFleet) -> int:
    async with fleet.client() as client:
        return len(await client.jobs.list())


async def test_missing_job_file_is_refused(fleet: LocalFleet, tmp_path: Path) -> None:
    ended = await fleet.cli("train", tmp_path / "none.yaml")
    assert ended.code == _FAILED
    assert "none.yaml" in ended.stderr
    assert "Next step:" in ended.stderr


async def _train_on(fleet: LocalFleet, base: Path, name: str) -> None:
    sets = ("--set", f"train.base.model={base}", "--set", "train.optim.max_steps=8")
    await fleet.done("train", TICKETS / "job.yaml", "--id", name, *sets, "--follow")


async def _refused_deployment(fleet: LocalFleet, name: str) -> dict[str, str]:
    """Deploy a model that must be refused; return the error."""
    ended = await fleet.cli("deploy", f"models/{name}", "--wait", "--json")
    assert ended.code == _FAILED
    await fleet.cli("deployments", "delete", name)  # there is none if it was refused at submit
    error = ended.document("error")
    assert error["hint"]
    return error


@pytest.mark.slow  # trains once more
async def test_adapter_is_not_used_on_a_base_that_changed_since(fleet: LocalFleet) -> None:
    base = copy_of_base(fleet.root / "other-weights")
    await _train_on(fleet, base, "other-weights")
    weights = (base / "model.safetensors").read_bytes()
    half = len(weights) // 2
    (base / "model.safetensors").write_bytes(weights[:half] + bytes(len(weights) - half))
    error = await _refused_deployment(fleet, "other-weights")
    assert error["reason"] == "BASE_INVALID"
    assert "config or weights" in error["message"]

    (base / "model.safetensors").write_bytes(weights)
    config = (base / "config.json").read_text()
    (base / "config.json").write_text(config.replace("1e-06", "2e-06"))  # too little for the numbers to show
    assert (base / "config.json").read_text() != config
    error = await _refused_deployment(fleet, "other-weights")
    assert error["reason"] == "BASE_INVALID"

    shutil.rmtree(base)
    write_base(base)  # of another architecture, at the same place
    made = json.loads((base / "config.json").read_text())
    other = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (base / "config.json").write_text(json.dumps(made | other))
    assert (await _refused_deployment(fleet, "other-weights"))["reason"] == "BASE_INVALID"
    model, before = "models/other-weights", await _job_count(fleet)
    for command, verb in (
        (("export", model), "exported"),
        (("eval", model, TICKETS / "test.jsonl"), "scored"),
    ):
        ended = await fleet.cli(*command, "--json")
        error = ended.document("error")
        assert (error["reason"], f"is not {verb}" in error["message"]) == ("BASE_INVALID", True), error
        assert "config or weights" in error["message"]
        assert error["hint"]
    assert await _job_count(fleet) == before, "nothing was started"

    shutil.rmtree(base)
    copy_of_base(base)
    (base / "model.safetensors").write_bytes(weights)  # nothing else was wrong
    (base / "config.json").write_text(config)
    await fleet.done("deploy", "models/other-weights", "--wait")
    await fleet.done("deployments", "delete", "other-weights")


@pytest.mark.slow  # trains once more
async def test_adapter_whose_stored_scale_was_changed_is_not_served(fleet: LocalFleet) -> None:
    await _train_on(fleet, BASE, "other-scale")
    model = (await fleet.done("models", "show", "other-scale")).document("Model")
    (digest,) = (
        item["sha256"] for item in model["manifest"]["files"] if item["path"] == "adapter_config.json"
    )
    (blob,) = (fleet.state / "artifacts").glob(f"sha256/*/{digest}")
    config = json.loads(blob.read_text())
    mode = blob.stat().st_mode
    blob.chmod(0o600)
    blob.write_text(json.dumps(config | {"lora_alpha": 4 * config["lora_alpha"]}))
    blob.chmod(mode)
    error = await _refused_deployment(fleet, "other-scale")
    assert error["reason"] == "MANIFEST_NOT_FOUND"
    assert "adapter_config.json" in error["message"]


@pytest.mark.slow  # trains once more
async def test_template_that_changed_since_is_served_as_it_was_trained(fleet: LocalFleet) -> None:
    """An adapter brings the template it was trained with; the base's own no longer matters to it."""
    base = copy_of_base(fleet.root / "other-template")
    await _train_on(fleet, base, "other-template")
    trained = (base / "chat_template.jinja").read_text()
    changed = trained.replace("<|im_start|>assistant", "<|im_start|> assistant")
    assert changed != trained
    (base / "chat_template.jinja").write_text(changed)
    await fleet.done("deploy", base, "--name", "bare-base", "--wait")
    served = (await fleet.done("deploy", "models/other-template", "--wait")).document("Deployment")
    assert served["contract"]["tokens"] == "CONTRACT_STATE_VERIFIED"
    question = [{"role": "user", "content": "Hello"}]
    own, adapters = [await _token_ids(served, name, question) for name in ("base@", "other-template@")]
    assert own != adapters  # the template did change, and only the base follows it
    for name in ("bare-base", "other-template"):
        await fleet.done("deployments", "delete", name)


async def _token_ids(served: dict[str, str], prefix: str, messages: list[dict[str, str]]) -> list[int]:
    """Ask the engine itself how it renders a conversation for one of its models."""
    async with aiohttp.ClientSession(served["engine_address"]) as session:
        async with session.get("/v1/models") as answer:
            names = [item["id"] for item in (await answer.json())["data"]]
        (name,) = (name for name in names if name.startswith(prefix))
        body = {"model": name, "messages": messages, "add_generation_prompt": True}
        async with session.post("/tokenize", json=body) as answer:
            return (await answer.json())["tokens"]
