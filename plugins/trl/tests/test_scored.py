"""GRPO and RLOO on tiny models: the mean reward rises, on the renderer's prompts, and a run resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import process_lab
import pytest
import trl_lab as lab

from tunefleet.backend.v1.inspect_pb2 import AuditFile, AuditOrder
from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.job.v1.spec_pb2 import Reward
from tunefleet_core.backend import RunStopped
from tunefleet_core.catalog.base import read_base
from tunefleet_core.catalog.template import choose_template
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import read_contract
from tunefleet_families import QWEN3
from tunefleet_trl.rank import TrlRank


def spec_of(method: str, adaptation: str = "lora", *, steps: int = 25) -> lab.JobSpec:
    """Return a job that is paid for letters of the first half of the alphabet: a third of its answers."""
    rate = 1e-3 if adaptation == "full" else 1e-2
    spec = lab.adapted_spec(adaptation, steps=steps, learning_rate=rate, micro_batch_size=2, batch_size=4)
    if adaptation != "full":
        spec.train.adapter.lora.dropout = 0.0
    options = getattr(spec.train.method, method)
    options.num_generations, options.max_completion_length, options.beta = 8, 6, 0.01
    options.rewards.add(name="regex").options["pattern"] = "[a-m]"
    return spec


def order_of(base: Path, folder: Path, spec: lab.JobSpec, *, validation: bool = False) -> lab.RunOrder:
    rows = [{"prompt": word, "answer": answer} for word, answer in lab.PAIRS] * 2
    data = [("train", lab.write_rows(folder / "rows.jsonl", rows))]
    if validation:
        data.append(("validation", lab.write_rows(folder / "validation.jsonl", rows[:2])))
    return lab.order(lab.resolved(base, data=data, spec=spec), folder / "work")


@pytest.mark.parametrize("adaptation", ["lora", "full"])
@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_the_mean_reward_rises(
    base: Path, tmp_path: Path, method: str, adaptation: str, request: pytest.FixtureRequest
) -> None:
    context = lab.MemoryContext(order_of(base, tmp_path, spec_of(method, adaptation)))
    TrlRank().run(context)
    steps = [metrics for metrics in context.told if metrics.HasField("loss")]
    assert [metrics.step for metrics in steps] == list(range(1, 26))
    rewards = [metrics.extra["reward"] for metrics in steps]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.3
    assert steps[0].extra["reward_std"] > 0, "without spread there is nothing to learn"
    assert steps[0].extra["kl"] == pytest.approx(0, abs=1e-4)
    assert steps[-1].extra["kl"] > 0.1
    assert "rewards/regex/mean" in steps[-1].extra
    assert 0 < steps[0].tokens < steps[-1].tokens
    assert len(context.preflights) == 1
    contract = read_contract(context.output)
    assert (contract.adapter is None) == (adaptation == "full")
    assert contract.numbers[0].base != contract.numbers[0].tuned
    lab.record_training(request, method, adaptation)


def test_prompts_are_the_renderers_and_answers_end_where_the_template_ends_them(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunefleet_trl.methods.scored import GroupTrainer

    seen: list[Any] = []
    original = GroupTrainer._generate_single_turn

    def generate(self: Any, prompt_ids: Any, *arguments: Any, **further: Any) -> Any:
        seen.append((prompt_ids, self.generation_config.eos_token_id, self.eos_token_ids))
        return original(self, prompt_ids, *arguments, **further)

    monkeypatch.setattr(GroupTrainer, "_generate_single_turn", generate)
    order = order_of(base, tmp_path, spec_of("grpo", steps=1))
    TrlRank().run(lab.MemoryContext(order))
    from tunefleet_core.rendering import Renderer, load_tokenizer

    template = order.resolved_spec.chat_template
    renderer = Renderer(load_tokenizer(order.resolved_spec.base), template)
    wanted = [renderer.prompt([{"role": "user", "content": word}]) for word, _ in lab.PAIRS]
    prompts, ends, known = seen[-1]
    assert all(prompt in wanted for prompt in prompts)
    assert len(prompts) == 4 * 8
    assert set(template.stop_token_ids) <= set(ends)
    assert set(template.stop_token_ids) <= set(known)


def test_a_schema_scores_answers_in_a_run(base: Path, tmp_path: Path) -> None:
    spec = spec_of("grpo", steps=2)
    added = spec.train.method.grpo.rewards.add(name="json_schema")
    # A schema that takes every answer that is JSON, so half a point would show one that was not held to it.
    added.options["schema"] = {"type": ["string", "number", "integer", "boolean", "null", "array", "object"]}
    context = lab.MemoryContext(order_of(base, tmp_path, spec))
    TrlRank().run(context)
    told = [metrics.extra["rewards/json_schema/mean"] for metrics in context.told if metrics.HasField("loss")]
    assert len(told) == 2
    assert all((32 * mean).is_integer() for mean in told), "of 32 answers each is worth 0 or 1"


def test_validation_prompts_are_scored_too(base: Path, tmp_path: Path) -> None:
    context = lab.MemoryContext(order_of(base, tmp_path, spec_of("grpo", steps=2), validation=True))
    TrlRank().run(context)
    validations = [metrics for metrics in context.told if metrics.HasField("validation_loss")]
    assert "validation/reward" in validations[-1].extra


def test_a_run_that_was_paused_goes_on_to_the_same_bytes(base: Path, tmp_path: Path) -> None:
    spec = spec_of("grpo", steps=5)
    (tmp_path / "whole").mkdir()
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
    name = "adapter_model.safetensors"
    assert (tmp_path / "resumed" / "output" / name).read_bytes() == (whole.output / name).read_bytes()


def test_a_trial_changes_nothing(base: Path, tmp_path: Path) -> None:
    outputs = []
    for wanted in (True, False):
        (tmp_path / str(wanted)).mkdir()
        spec = spec_of("grpo", steps=2)
        spec.train.preflight = wanted
        context = lab.MemoryContext(order_of(base, tmp_path / str(wanted), spec))
        TrlRank().run(context)
        outputs.append((context.output / "adapter_model.safetensors").read_bytes())
    assert outputs[0] == outputs[1]


def audit_of(base: Path, path: Path, *rewards: Reward) -> Any:
    facts = read_base(base)
    order = AuditOrder(
        base=facts,
        chat_template=choose_template(facts, QWEN3).template,
        files=[AuditFile(role="train", path=str(path))],
        loss_on="assistant",
        method="grpo",
        rewards=rewards,
    )
    return TrlRank().audit(order).files[0].mask


def test_the_audit_checks_rewards_with_the_rows(base: Path, tmp_path: Path) -> None:
    path = lab.write_rows(tmp_path / "r", [{"prompt": "red", "answer": "rot"}, {"prompt": "blue"}])
    regex = Reward(name="regex")
    regex.options["pattern"] = "a"
    mask = audit_of(base, path, regex)
    assert (mask.rows, mask.trained_tokens, mask.rows_without_loss) == (2, 0, 0)
    assert [span.text for span in mask.first_rows[0].spans] == [
        "<|im_start|>user\nred<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    ]
    with pytest.raises(TunefleetError, match="r:2: answer: is missing; the reward 'exact_match'") as caught:
        audit_of(base, path, Reward(name="exact_match"))
    assert caught.value.reason is Reason.DATA_INVALID
    with pytest.raises(TunefleetError, match="'magic' is no reward"):
        audit_of(base, path, Reward(name="magic"))


def test_steps_want_enough_prompts(base: Path, tmp_path: Path) -> None:
    spec = spec_of("grpo", steps=1)
    spec.train.optim.batch_size = 16
    with pytest.raises(TunefleetError, match="more than the 8 prompts there are"):
        TrlRank().run(lab.MemoryContext(order_of(base, tmp_path, spec)))
