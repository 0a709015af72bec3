"""DPO, IPO and KTO on tiny models: they learn what was preferred, on exactly the answers, and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import process_lab
import pytest
import torch
import trl_lab as lab

from tunefleet.backend.v1.inspect_pb2 import AuditFile, AuditOrder
from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet_core.backend import RunStopped
from tunefleet_core.catalog.base import read_base
from tunefleet_core.catalog.template import choose_template
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import read_contract
from tunefleet_core.rendering import Renderer, answered_rows, load_tokenizer
from tunefleet_families import QWEN3
from tunefleet_trl.methods.collating import LabelledCollator, PairCollator
from tunefleet_trl.methods.preference import label_weights
from tunefleet_trl.rank import TrlRank

METHODS = ("dpo", "ipo", "kto")
BAD = "nein"
STEPS = 8


def turns(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def rows_of(method: str, *, copies: int = 4) -> list[dict[str, Any]]:
    """Return rows that prefer the German word to `nein`."""
    if method == "kto":
        rows = [
            {"prompt": turns("user", word), "completion": turns("assistant", said), "label": said != BAD}
            for said_bad in (False, True)  # all good answers first, as files often have them
            for word, answer in lab.PAIRS
            for said in [BAD if said_bad else answer]
        ]
        return rows * (copies // 2)
    return [
        {
            "prompt": turns("user", word),
            "chosen": turns("assistant", answer),
            "rejected": turns("assistant", BAD),
        }
        for word, answer in lab.PAIRS
    ] * copies


def spec_of(method: str, adaptation: str = "lora", *, steps: int = 20, dropout: float = 0.0) -> lab.JobSpec:
    rate = 1e-3 if adaptation == "full" else 5e-3
    spec = lab.adapted_spec(adaptation, steps=steps, learning_rate=rate, micro_batch_size=4, batch_size=4)
    if adaptation != "full":
        spec.train.adapter.lora.dropout = dropout
    getattr(spec.train.method, method).beta = 0.1
    return spec


def order_of(base: Path, folder: Path, method: str, spec: lab.JobSpec) -> lab.RunOrder:
    rows = lab.write_rows(folder / "rows.jsonl", rows_of(method))
    resolved = lab.resolved(base, data=[("train", rows), ("validation", rows)], spec=spec)
    return lab.order(resolved, folder / "work")


@pytest.mark.parametrize("adaptation", ["lora", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "method", [name if name == "dpo" else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_the_margin_grows(
    base: Path, tmp_path: Path, method: str, adaptation: str, request: pytest.FixtureRequest
) -> None:
    context = lab.MemoryContext(order_of(base, tmp_path, method, spec_of(method, adaptation)))
    TrlRank().run(context)
    steps = [metrics for metrics in context.told if metrics.HasField("loss")]
    validations = [metrics for metrics in context.told if metrics.HasField("validation_loss")]
    assert [metrics.step for metrics in steps] == list(range(1, 21))
    assert steps[0].extra["rewards/rejected"] == pytest.approx(0, abs=1e-5), "it starts as its base"
    assert validations[-1].extra["validation/rewards/margins"] > 1.0
    assert validations[-1].extra["validation/rewards/chosen"] > 0 > steps[-1].extra["rewards/rejected"]
    assert validations[-1].validation_loss < validations[0].validation_loss
    if method == "kto":
        assert "kl" in steps[-1].extra
    else:
        assert validations[-1].extra["validation/rewards/accuracies"] == 1.0
    assert steps[-1].tokens > steps[0].tokens > 0
    assert len(context.preflights) == 1
    contract = read_contract(context.output)
    assert (contract.adapter is None) == (adaptation == "full")
    assert contract.numbers
    lab.record_training(request, method, adaptation)


@pytest.mark.slow
def test_a_quantised_base_is_trained_by_preferences_too(
    base: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    context = lab.MemoryContext(order_of(base, tmp_path, "dpo", spec_of("dpo", "qlora", steps=12)))
    TrlRank().run(context)
    margins = [metrics.extra["rewards/margins"] for metrics in context.told if metrics.HasField("loss")]
    assert margins[-1] > 0.5 > margins[0]
    lab.record_training(request, "dpo", "lora", form="nf4")


def renderer_of(base: Path) -> Renderer:
    facts = read_base(base)
    return Renderer(load_tokenizer(facts), choose_template(facts, QWEN3).template)


@pytest.mark.parametrize(("method", "collator"), [("dpo", PairCollator), ("kto", LabelledCollator)])
def test_the_loss_is_on_the_answer_and_its_end_alone(
    base: Path, tmp_path: Path, method: str, collator: Any
) -> None:
    row = rows_of(method, copies=2)[0]
    row["prompt"] = [*turns("user", "a"), *turns("assistant", "b"), *row["prompt"]]
    path = lab.write_rows(tmp_path / "rows.jsonl", [row])
    renderer = renderer_of(base)
    (answered,) = answered_rows(method, str(path), renderer)
    for answer, said in zip(answered.answers, ("rot", BAD), strict=False):
        pairs = zip(answer.rendered.input_ids, answer.rendered.mask, strict=True)
        assert renderer.text([token for token, is_trained in pairs if is_trained]) == f"{said}<|im_end|>"
    from tunefleet_trl.methods import preference

    columns = preference._labelled if method == "kto" else preference._pairs
    batch = collator(pad_token_id=0)([columns([answered])[0]])
    for name in ("", "KL_") if method == "kto" else ("",):
        ids, mask = batch[f"{name}input_ids"], batch[f"{name}completion_mask"]
        assert ids.shape == mask.shape == batch[f"{name}attention_mask"].shape
        assert renderer.text(ids[0][mask[0] == 1].tolist()) == "rot<|im_end|>"


def test_the_ids_are_those_the_library_renders_with_the_same_template(base: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl.trainer.dpo_trainer import DPOTrainer

    rows = rows_of("dpo", copies=1)
    renderer = renderer_of(base)
    renderer.tokenizer.chat_template = renderer.template.text
    own = [row.answers for row in answered_rows("dpo", str(lab.write_rows(tmp_path / "r", rows)), renderer)]

    class Arguments:
        dataset_num_proc = None
        max_length = None
        truncation_mode = "keep_start"

    trainer = DPOTrainer.__new__(DPOTrainer)
    trainer._tokenizer = renderer.tokenizer
    theirs = trainer._prepare_dataset(Dataset.from_list(rows), renderer.tokenizer, Arguments(), "train")
    for row, answers in zip(theirs, own, strict=True):
        for answer in answers:
            whole = row["prompt_ids"] + row[f"{answer.part}_ids"]
            assert whole == answer.rendered.input_ids


def test_answers_to_other_prompts_tell_how_far_the_model_has_moved() -> None:
    from tunefleet_trl.methods.preference import _others

    rows = [{"prompt_ids": [0], "answer_ids": [10], "answer_mask": [1], "label": True}]
    rows[0] |= {"other_ids": [12, 13], "other_mask": [1, 0]}
    batch = LabelledCollator(pad_token_id=0)(rows)
    assert batch["input_ids"].tolist() == [[0, 10]]
    assert batch["KL_input_ids"].tolist() == [[0, 12, 13]]
    assert batch["KL_completion_mask"].tolist() == [[0, 1, 0]]
    for count in range(2, 9):
        others = _others(count)
        assert sorted(others) == list(range(count)), "each answer is another's once"
        assert all(other != row for row, other in enumerate(others))


def test_both_kinds_of_labels_count_the_same_unless_told_otherwise(base: Path, tmp_path: Path) -> None:
    rows = [*rows_of("kto", copies=2)[:6]]
    path = lab.write_rows(tmp_path / "rows.jsonl", rows)
    answered = list(answered_rows("kto", str(path), renderer_of(base)))
    asked = lab.JobSpec().train.method.kto
    good, bad = label_weights(asked, answered)
    assert (good * 4, bad * 2) == (2, 2)
    asked.desirable_weight = 3
    assert label_weights(asked, answered)[0] == 3


@pytest.mark.parametrize("method", ["dpo", "kto", "simpo", "reward"])
def test_a_step_that_stands_out_names_its_rows(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from tunefleet_core.run_life import RunLife

    monkeypatch.setattr(RunLife, "judge", lambda life, step, loss, grad_norm: 1.0)  # every step does
    spec = spec_of("dpo", steps=2)
    getattr(spec.train.method, method).SetInParent()
    rows = [dict(row) for row in rows_of("kto" if method == "kto" else "dpo", copies=2)]
    for number, row in enumerate(rows):
        row["prompt"] = turns("user", f"number {number}")  # no row is like another
    path = lab.write_rows(tmp_path / "train.jsonl", rows)
    resolved = lab.resolved(base, data=[("train", path)], spec=spec)
    context = lab.MemoryContext(lab.order(resolved, tmp_path / "work"))
    TrlRank().run(context)
    named = [[row.line for row in spike.rows] for spike in context.events_of("loss_spike")]
    assert [len(lines) for lines in named] == [4, 4]
    assert len({*named[0], *named[1]}) == 8
    assert {row.path for spike in context.events_of("loss_spike") for row in spike.rows} == {str(path)}


@pytest.mark.slow  # supervised runs show it fast
@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_a_resumed_run_ends_in_the_same_bytes(base: Path, tmp_path: Path, method: str) -> None:
    spec = spec_of(method, steps=STEPS, dropout=0.1)
    spec.train.checkpoint.every_steps = STEPS
    (tmp_path / "whole").mkdir()
    whole = lab.MemoryContext(order_of(base, tmp_path / "whole", method, spec))
    TrlRank().run(whole)
    stopped = lab.RunOrder()
    stopped.CopyFrom(whole.order)
    stopped.work_dir = str(tmp_path / "stopped")
    save, go_on = StopMode.STOP_MODE_SAVE, StopMode.STOP_MODE_UNSPECIFIED
    context = lab.MemoryContext(stopped, stop_when=lambda seen: save if seen.step >= 2 else go_on)
    with pytest.raises(RunStopped):
        TrlRank().run(context)
    (step,) = context.checkpoints
    assert 2 <= step < STEPS
    process_lab.run_in_new_process(process_lab.resumed(context.order, tmp_path / "resumed", step))
    for name in ("adapter_model.safetensors", "contract.json"):
        assert (tmp_path / "resumed" / "output" / name).read_bytes() == (whole.output / name).read_bytes()
    last = Path("checkpoints") / f"step-{STEPS:08d}" / "optimizer.pt"
    one, other = (
        torch.load(tmp_path / folder / last, weights_only=True) for folder in ("whole/work", "resumed")
    )
    for state, again in zip(one["state"].values(), other["state"].values(), strict=True):
        assert all(torch.equal(state[key], again[key]) for key in state)


@pytest.mark.slow
@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_a_killed_run_goes_on_to_the_same_bytes(base: Path, tmp_path: Path, adaptation: str) -> None:
    spec = spec_of("dpo", adaptation, steps=STEPS)
    spec.train.checkpoint.every_steps = 3
    (tmp_path / "whole").mkdir()
    whole = lab.MemoryContext(order_of(base, tmp_path / "whole", "dpo", spec))
    TrlRank().run(whole)
    killed = lab.RunOrder()
    killed.CopyFrom(whole.order)
    killed.work_dir = str(tmp_path / "killed")
    step = process_lab.killed_after(killed, 3)
    resumed = lab.MemoryContext(process_lab.resumed(killed, tmp_path / "resumed", step))
    TrlRank().run(resumed)
    for path in whole.output.glob("*.safetensors"):
        assert (resumed.output / path.name).read_bytes() == path.read_bytes()
    assert (resumed.output / "contract.json").read_bytes() == (whole.output / "contract.json").read_bytes()


def test_a_cancelled_run_keeps_nothing(base: Path, tmp_path: Path) -> None:
    cancel, go_on = StopMode.STOP_MODE_CANCEL, StopMode.STOP_MODE_UNSPECIFIED
    context = lab.MemoryContext(
        order_of(base, tmp_path, "dpo", spec_of("dpo")),
        stop_when=lambda seen: cancel if seen.step >= 2 else go_on,
    )
    with pytest.raises(RunStopped):
        TrlRank().run(context)
    assert context.step == 2
    assert not context.output.exists()


def audit_of(base: Path, path: Path, method: str) -> Any:
    facts = read_base(base)
    order = AuditOrder(
        base=facts,
        chat_template=choose_template(facts, QWEN3).template,
        files=[AuditFile(role="train", path=str(path))],
        loss_on="assistant",
        method=method,
    )
    return TrlRank().audit(order).files[0].mask


def test_the_audit_shows_both_answers_of_a_pair(base: Path, tmp_path: Path) -> None:
    same = {"prompt": "q", "chosen": "a", "rejected": "a"}
    mask = audit_of(base, lab.write_rows(tmp_path / "r", [*rows_of("dpo", copies=1), same]), "dpo")
    assert (mask.rows, mask.rows_without_loss, mask.rows_with_equal_answers) == (5, 1, 1)
    assert mask.first_line_with_equal_answers == 5
    chosen, rejected = mask.first_rows[:2]
    assert (chosen.part, rejected.part, chosen.line, rejected.line) == ("chosen", "rejected", 1, 1)
    trained = [[span.text for span in row.spans if span.is_trained] for row in (chosen, rejected)]
    assert trained == [["rot<|im_end|>"], [f"{BAD}<|im_end|>"]]
    assert mask.trained_tokens == sum(len(answer) + len(BAD) + 2 for _, answer in lab.PAIRS) + 4
    assert mask.end_of_turn_trained
    assert not mask.rows_with_prefix_breaks


def test_the_audit_counts_labels_and_refuses_other_rows(base: Path, tmp_path: Path) -> None:
    mask = audit_of(base, lab.write_rows(tmp_path / "r", rows_of("kto", copies=2)), "kto")
    assert (mask.rows, mask.rows_labelled_good) == (8, 4)
    assert [row.part for row in mask.first_rows] == ["good"] * 3
    with pytest.raises(TunefleetError, match=r"r:1: chosen: is missing; .* the method kto takes") as caught:
        audit_of(base, tmp_path / "r", "dpo")
    assert caught.value.reason is Reason.DATA_INVALID


def test_equal_answers_are_left_out_and_told(base: Path, tmp_path: Path) -> None:
    order = order_of(base, tmp_path, "dpo", spec_of("dpo", steps=1))
    same = {"prompt": "q", "chosen": "a", "rejected": "a"}
    path = lab.write_rows(tmp_path / "rows.jsonl", [*rows_of("dpo", copies=1), same])
    for data in order.resolved_spec.data:
        data.path, data.sha256 = str(path), ""
    context = lab.MemoryContext(order)
    TrlRank().run(context)
    assert any("1 of 5 rows" in notice for notice in context.notices)
    lab.write_rows(path, [same])
    with pytest.raises(TunefleetError) as caught:
        TrlRank().run(lab.MemoryContext(order))
    assert caught.value.reason is Reason.NO_TRAINED_TOKEN
