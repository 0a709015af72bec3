"""Reward models on tiny bases: they learn to score, load again, resume, and pay answers that are tried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import process_lab
import pytest
import torch
import trl_lab as lab
from trl.trainer.reward_trainer import RewardTrainer

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.inspect_pb2 import AuditFile, AuditOrder
from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.job.v1.resolved_pb2 import CompanionModel, ResolvedAdapter
from tunefleet_core.backend import RunStopped
from tunefleet_core.catalog.base import read_base
from tunefleet_core.catalog.template import choose_template
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_families import QWEN3
from tunefleet_trl.loading import Hardware
from tunefleet_trl.methods.reward_files import SCORES, load_reward_model, score_ids
from tunefleet_trl.rank import TrlRank

CPU = Hardware(kind="cpu", dtype="float32")
STEPS = 8


def spec_of(adaptation: str = "lora", *, steps: int = 20) -> lab.JobSpec:
    rate = 1e-3 if adaptation == "full" else 1e-2
    spec = lab.adapted_spec(adaptation, steps=steps, learning_rate=rate, micro_batch_size=4, batch_size=4)
    if adaptation != "full":
        spec.train.adapter.lora.dropout = 0.0
    spec.train.method.reward.center_rewards_coefficient = 0.01
    return spec


def order_of(base: Path, folder: Path, spec: lab.JobSpec) -> lab.RunOrder:
    """Return an order that prefers words of small letters to the same words shouted."""
    folder.mkdir(exist_ok=True)
    rows = [{"prompt": word, "chosen": answer, "rejected": answer.upper()} for word, answer in lab.PAIRS] * 3
    path = lab.write_rows(folder / "rows.jsonl", rows)
    resolved = lab.resolved(base, data=[("train", path), ("validation", path)], spec=spec)
    return lab.order(resolved, folder / "work")


@pytest.fixture(scope="module")
def judge(base: Path, tmp_path_factory: pytest.TempPathFactory) -> lab.MemoryContext:
    """A reward model that has learned: an adapter with its head."""
    context = lab.MemoryContext(order_of(base, tmp_path_factory.mktemp("judge"), spec_of(steps=30)))
    TrlRank().run(context)
    return context


def companion_of(context: lab.MemoryContext, base: Path) -> CompanionModel:
    return CompanionModel(
        field="train.method.grpo.rewards[0].options.model",
        base=read_base(base),
        adapter=ResolvedAdapter(model="models/judge"),
    )


@pytest.mark.parametrize("adaptation", ["lora", "full", pytest.param("qlora", marks=pytest.mark.slow)])
def test_chosen_answers_score_higher(base: Path, tmp_path: Path, adaptation: str) -> None:
    context = lab.MemoryContext(order_of(base, tmp_path, spec_of(adaptation)))
    output = TrlRank().run(context)
    assert output.kind == ArtifactKind.ARTIFACT_KIND_REWARD_MODEL
    validations = [metrics for metrics in context.told if metrics.HasField("validation_loss")]
    assert validations[-1].extra["validation/accuracy"] == 1.0
    assert validations[-1].extra["validation/margin"] > validations[0].extra["validation/margin"] + 1
    assert validations[-1].validation_loss < validations[0].validation_loss
    steps = [metrics for metrics in context.told if metrics.HasField("loss")]
    assert {"accuracy", "margin", "mean_reward"} <= set(steps[-1].extra)
    assert steps[-1].tokens > steps[0].tokens > 0
    assert len(context.preflights) == 1
    assert not (context.output / "contract.json").exists(), "there are no words to hold a server to"


def test_what_is_left_loads_again_and_scores_as_it_did(
    base: Path, tmp_path: Path, judge: lab.MemoryContext
) -> None:
    record = json.loads((judge.output / SCORES).read_text())["scores"]
    chosen, rejected = ([item["score"] for item in record[at::2]] for at in (0, 1))
    assert min(chosen) > max(rejected)
    model = load_reward_model(companion_of(judge, base), str(judge.output), CPU)
    again = score_ids(model, [item["token_ids"] for item in record])
    assert again == pytest.approx([item["score"] for item in record], abs=1e-5)
    whole = lab.MemoryContext(order_of(base, tmp_path, spec_of("full", steps=4)))
    TrlRank().run(whole)
    assert "Qwen3ForSequenceClassification" in (whole.output / "config.json").read_text()
    load_reward_model(CompanionModel(field="f", base=read_base(whole.output)), "", CPU)


def test_a_base_that_changed_under_its_head_is_refused(
    tmp_path: Path, base: Path, judge: lab.MemoryContext
) -> None:
    other = lab.build_base(tmp_path / "other", seed=1)
    with pytest.raises(TunefleetError, match="scores conversation 0 of its record") as caught:
        load_reward_model(companion_of(judge, other), str(judge.output), CPU)
    assert caught.value.reason is Reason.NUMBERS_MISMATCH
    with pytest.raises(TunefleetError, match="holds no reward model"):
        load_reward_model(CompanionModel(field="f", base=read_base(base)), "", CPU)


def test_the_loss_is_the_librarys_on_its_own_tokens(base: Path, tmp_path: Path) -> None:
    spec = spec_of(steps=1)
    context = lab.MemoryContext(order_of(base, tmp_path, spec))
    seen: list[dict[str, Any]] = []
    original = RewardTrainer.compute_loss

    def spy(self: Any, model: Any, inputs: Any, *arguments: Any, **further: Any) -> Any:
        seen.append({"rows": inputs["input_ids"].clone(), "mask": inputs["attention_mask"].clone()})
        return original(self, model, inputs, *arguments, **further)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RewardTrainer, "compute_loss", spy)
        TrlRank().run(context)
    from tunefleet_core.rendering import load_tokenizer

    tokenizer = load_tokenizer(context.order.resolved_spec.base)
    batch = seen[-1]
    texts = [tokenizer.decode(row[mask == 1]) for row, mask in zip(batch["rows"], batch["mask"], strict=True)]
    assert all(text.endswith("<|im_end|>") for text in texts), "scored where an answer of a model ends"
    words = [text.rpartition("\n")[2].removesuffix("<|im_end|>") for text in texts]
    half = len(words) // 2
    assert [word.upper() for word in words[:half]] == words[half:]


def test_a_resumed_run_ends_in_the_same_bytes(base: Path, tmp_path: Path) -> None:
    spec = spec_of(steps=STEPS)
    spec.train.adapter.lora.dropout = 0.1
    whole = lab.MemoryContext(order_of(base, tmp_path / "whole", spec))
    TrlRank().run(whole)
    stopped = lab.RunOrder()
    stopped.CopyFrom(whole.order)
    stopped.work_dir = str(tmp_path / "stopped")
    save, go_on = StopMode.STOP_MODE_SAVE, StopMode.STOP_MODE_UNSPECIFIED
    context = lab.MemoryContext(stopped, stop_when=lambda seen: save if seen.step >= 2 else go_on)
    with pytest.raises(RunStopped):
        TrlRank().run(context)
    (step,) = context.checkpoints
    process_lab.run_in_new_process(process_lab.resumed(context.order, tmp_path / "resumed", step))
    for name in ("adapter_model.safetensors", SCORES):
        assert (tmp_path / "resumed" / "output" / name).read_bytes() == (whole.output / name).read_bytes()


def test_answers_are_paid_by_a_reward_model(base: Path, tmp_path: Path, judge: lab.MemoryContext) -> None:
    spec = lab.adapted_spec("lora", steps=20, learning_rate=1e-2, micro_batch_size=2, batch_size=4)
    spec.train.adapter.lora.dropout = 0.0
    options = spec.train.method.grpo
    options.num_generations, options.max_completion_length, options.beta = 8, 6, 0.0
    options.rewards.add(name="reward_model").options["model"] = "models/judge"
    rows = [{"prompt": word} for word, _ in lab.PAIRS] * 2
    resolved = lab.resolved(base, data=[("train", lab.write_rows(tmp_path / "rows", rows))], spec=spec)
    resolved.companions.append(companion_of(judge, base))
    order = lab.order(resolved, tmp_path / "work", companion_adapter_dirs=[str(judge.output)])
    context = lab.MemoryContext(order)
    TrlRank().run(context)
    rewards = [metrics.extra["reward"] for metrics in context.told if metrics.HasField("loss")]
    spread = max(metrics.extra["reward_std"] for metrics in context.told if metrics.HasField("loss"))
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.3
    assert spread > 0
    assert "rewards/reward_model/mean" in context.told[-1].extra


def test_other_tokens_and_bases_without_a_head_are_refused_by_the_audit(base: Path, tmp_path: Path) -> None:
    facts = read_base(base)
    rows = lab.write_rows(tmp_path / "rows", [{"prompt": "red", "chosen": "rot", "rejected": "nein"}])
    order = AuditOrder(
        base=facts,
        chat_template=choose_template(facts, QWEN3).template,
        files=[AuditFile(role="train", path=str(rows))],
        loss_on="assistant",
        method="reward",
    )
    assert TrlRank().audit(order).files[0].mask.rows == 1
    other = tmp_path / "other"
    lab.build_base(other, model_type="gpt_oss")  # with six tokens more
    order.companions.add(field="train.x", base=read_base(other))
    with pytest.raises(TunefleetError, match="has another tokenizer than the base: it knows"):
        TrlRank().audit(order)
    del order.companions[:]
    order.base.model_type = "cohere2"
    with pytest.raises(TunefleetError, match="has no class that scores for the type 'cohere2'"):
        TrlRank().audit(order)


def test_scores_do_not_depend_on_the_batch(judge: lab.MemoryContext, base: Path) -> None:
    model = load_reward_model(companion_of(judge, base), str(judge.output), CPU)
    rows = [list(range(10, 20)), list(range(30, 70))]
    together, alone = score_ids(model, rows), [score_ids(model, [row])[0] for row in rows]
    torch.testing.assert_close(torch.tensor(together), torch.tensor(alone), atol=1e-5, rtol=0)
