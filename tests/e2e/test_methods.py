"""Methods beside SFT over a running fleet: two chained jobs, answers that are scored, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_fleet import BASE, ROOT, LocalFleet

PREFERENCES = ROOT / "examples" / "preferences"
_VERIFIED = "CONTRACT_STATE_VERIFIED"

pytestmark = [
    pytest.mark.backend,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
]


async def test_pairs_are_learned_from_what_the_first_job_wrote(fleet: LocalFleet) -> None:
    await fleet.done(
        *("train", PREFERENCES / "1-sft.yaml", "--id", "taught", "--follow"),
        *("--set", "train.optim.max_steps=20"),
    )
    await fleet.done("train", PREFERENCES / "2-dpo.yaml", "--id", "preferred", "--follow")
    job = (await fleet.done("jobs", "show", "preferred")).document("Job")
    assert job["state"] == "JOB_STATE_SUCCEEDED"
    resolved = job["resolved_spec"]
    assert resolved["spec"]["train"]["base"]["model"] == "models/taught"
    assert [row["part"] for row in resolved["mask_audit"]["first_rows"][:2]] == ["chosen", "rejected"]
    watched = (await fleet.done("jobs", "watch", "preferred")).stdout
    margins = dict(item for line in watched.splitlines() for item in _margins(json.loads(line)))
    first, *_, last = (margins[step] for step in sorted(margins))
    assert len(margins) > 10
    assert last > 0.2 > abs(first)


async def test_answers_are_scored_by_rewards_that_are_checked_at_submit(
    fleet: LocalFleet, tmp_path: Path
) -> None:
    rows = [json.dumps({"prompt": f"Name the letter {letter}", "answer": letter}) for letter in "abcdefgh"]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows))
    job = {
        "name": "scored",
        "train": {
            "base": {"model": str(BASE)},
            "data": {"train": [{"source": str(tmp_path / "prompts.jsonl")}]},
            "method": {
                "grpo": {
                    "rewards": [{"name": "regex", "weight": 2, "options": {"pattern": "[aeiou]"}}],
                    "max_completion_length": 8,
                }
            },
            "adapter": {"lora": {"rank": 8}},
            "optim": {"max_steps": 2, "batch_size": 4},
        },
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    await fleet.done("train", tmp_path / "job.yaml", "--id", "scored", "--follow")
    (tmp_path / "job.yaml").write_text(json.dumps(job).replace('"regex"', '"regexp"'))
    refused = await fleet.cli("plan", tmp_path / "job.yaml")
    assert refused.code != 0
    assert "did you mean 'regex'" in refused.stdout + refused.stderr


async def test_answers_are_scored_by_what_an_earlier_job_learned_from_pairs(
    fleet: LocalFleet, tmp_path: Path
) -> None:
    judging = {
        "name": "judge",
        "train": {
            "base": {"model": str(BASE)},
            "data": {"train": [{"source": str(PREFERENCES / "pairs.jsonl")}]},
            "method": {"reward": {}},
            "adapter": {"lora": {"rank": 8}},
            "optim": {"max_steps": 3, "batch_size": 4},
        },
    }
    (tmp_path / "judge.yaml").write_text(json.dumps(judging))
    await fleet.done("train", tmp_path / "judge.yaml", "--id", "judge", "--follow")
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": word}) for word in "abcdefgh"))
    rewards = [{"name": "reward_model", "options": {"model": "models/judge"}}]
    trying = {
        "name": "paid",
        "train": {
            "base": {"model": str(BASE)},
            "data": {"train": [{"source": str(tmp_path / "prompts.jsonl")}]},
            "method": {"grpo": {"rewards": rewards, "num_generations": 2, "max_completion_length": 4}},
            "adapter": {"lora": {"rank": 8}},
            "optim": {"max_steps": 1, "batch_size": 4},
        },
    }
    (tmp_path / "paid.yaml").write_text(json.dumps(trying))
    await fleet.done("train", tmp_path / "paid.yaml", "--id", "paid", "--follow")
    resolved = (await fleet.done("jobs", "show", "paid")).document("Job")["resolved_spec"]
    (companion,) = resolved["companions"]
    assert companion["adapter"]["model"].endswith("/models/judge")
    assert companion["template_sha256"] == resolved["chat_template"]["sha256"]
    refused = await fleet.cli("deploy", "models/judge")
    assert refused.code != 0
    assert "is a reward model: it scores answers and writes none" in refused.stdout + refused.stderr
    (tmp_path / "paid.yaml").write_text(json.dumps(trying).replace("models/judge", "models/paid"))
    refused = await fleet.cli("plan", tmp_path / "paid.yaml")
    assert refused.code != 0
    assert "'models/paid' writes answers and scores none" in refused.stdout + refused.stderr


async def test_texts_and_one_stage_preferences_are_trained_and_deployed(
    fleet: LocalFleet, tmp_path: Path
) -> None:
    texts = [json.dumps({"text": f"The letter {letter} stands in the alphabet."}) for letter in "abcdefgh"]
    (tmp_path / "texts.jsonl").write_text("\n".join(texts))
    job = {
        "name": "texts",
        "train": {
            "base": {"model": str(BASE)},
            "data": {"train": [{"source": str(tmp_path / "texts.jsonl")}]},
            "adapter": {"lora": {"rank": 8}},
            "optim": {"max_steps": 20, "batch_size": 4},
        },
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    await fleet.done("train", tmp_path / "job.yaml", "--id", "texts", "--follow")
    shown = (await fleet.done("jobs", "show", "texts")).document("Job")
    mask = shown["resolved_spec"]["mask_audit"]
    assert mask["rows_of_text"] == mask["rows"]
    assert mask["trained_tokens"] == mask["tokens"]
    deployment = (await fleet.done("deploy", "models/texts", "--wait")).document("Deployment")
    contract = deployment["contract"]
    assert (contract["tokens"], contract["numbers"]) == (_VERIFIED, _VERIFIED)
    text = json.dumps(job)
    (tmp_path / "job.yaml").write_text(text.replace('"adapter"', '"method": {"dpo": {}}, "adapter"'))
    refused = await fleet.cli("plan", tmp_path / "job.yaml")
    assert refused.code != 0
    assert "are texts, which the method sft takes" in refused.stdout + refused.stderr
    pairs = str(PREFERENCES / "pairs.jsonl")
    one_stage = text.replace(str(tmp_path / "texts.jsonl"), pairs)
    (tmp_path / "job.yaml").write_text(one_stage.replace('"adapter"', '"method": {"orpo": {}}, "adapter"'))
    await fleet.done("train", tmp_path / "job.yaml", "--id", "odds", "--follow")
    job_shown = (await fleet.done("jobs", "show", "odds")).document("Job")
    assert job_shown["state"] == "JOB_STATE_SUCCEEDED"


def _margins(item: object) -> Iterator[tuple[int, float]]:
    """Yield (step, margin) of every report of a step, wherever it stands in a line of JSON."""
    if isinstance(item, dict):
        margin = item.get("extra", {}).get("rewards/margins") if "step" in item else None
        if margin is not None:
            yield int(item["step"]), float(margin)
        item = list(item.values())
    if isinstance(item, list):
        for inner in item:
            yield from _margins(inner)
