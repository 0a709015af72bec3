"""Supervised training on plain texts and on questions with answers: what is trained, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trl_lab as lab

from tunefleet.backend.v1.inspect_pb2 import AuditFile, AuditOrder
from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet_core.backend import RunStopped
from tunefleet_core.catalog.base import read_base
from tunefleet_core.catalog.template import choose_template
from tunefleet_core.parity import read_contract
from tunefleet_core.rendering import Renderer, answered_rows, load_tokenizer
from tunefleet_families import QWEN3
from tunefleet_trl.rank import TrlRank

TEXTS = [{"text": f"The German word for {word} is {answer}."} for word, answer in lab.PAIRS]
ANSWERS = [{"prompt": word, "completion": answer} for word, answer in lab.PAIRS]


def order_of(base: Path, folder: Path, rows: list[Any], *, steps: int = 25) -> lab.RunOrder:
    folder.mkdir(exist_ok=True)
    train = lab.write_rows(folder / "train.jsonl", rows * 4)
    validation = lab.write_rows(folder / "validation.jsonl", rows)
    spec = lab.train_spec(steps=steps, dropout=0.0)
    data = [("train", train), ("validation", validation)]
    return lab.order(lab.resolved(base, data=data, spec=spec), folder / "work")


def renderer_of(base: Path, *, loss_on: str = "assistant") -> Renderer:
    facts = read_base(base)
    return Renderer(load_tokenizer(facts), choose_template(facts, QWEN3).template, loss_on=loss_on)


@pytest.mark.parametrize("rows", [TEXTS, ANSWERS], ids=["texts", "answers"])
def test_it_learns(base: Path, tmp_path: Path, rows: list[Any]) -> None:
    context = lab.MemoryContext(order_of(base, tmp_path, rows, steps=40))
    TrlRank().run(context)
    validations = [metrics.validation_loss for metrics in context.told if metrics.HasField("validation_loss")]
    assert validations[-1] < 0.3 * context.told[0].loss
    assert len(context.preflights) == 1
    contract = read_contract(context.output)
    assert contract.numbers[0].base != contract.numbers[0].tuned


def test_a_text_is_what_the_library_makes_of_it_and_all_of_it_is_trained(base: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from tunefleet_trl.loading import load_base, prepare_hardware

    path = lab.write_rows(tmp_path / "texts.jsonl", TEXTS)
    own = [row.answers[0].rendered for row in answered_rows("sft", str(path), renderer_of(base))]
    order = order_of(base, tmp_path / "run", TEXTS, steps=1)
    hardware = prepare_hardware(order, dtype="float32")
    trainer = SFTTrainer(
        model=load_base(order.resolved_spec.base, hardware),
        args=SFTConfig(output_dir=str(tmp_path / "out"), report_to=[], use_cpu=True, bf16=False),
        train_dataset=Dataset.from_list(TEXTS),
        processing_class=load_tokenizer(order.resolved_spec.base),
    )
    assert [row.input_ids for row in own] == [list(row["input_ids"]) for row in trainer.train_dataset]
    assert all(all(row.mask) for row in own)
    assert own[0].input_ids[-1] == trainer.processing_class.eos_token_id


def test_loss_is_on_the_answer_alone_unless_everything_is_asked_for(base: Path, tmp_path: Path) -> None:
    asked = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "red"},
    ]
    path = lab.write_rows(tmp_path / "rows.jsonl", [{"prompt": asked, "completion": "rot"}])
    for loss_on, wanted in (("assistant", "rot<|im_end|>"), ("all", None)):
        renderer = renderer_of(base, loss_on=loss_on)
        ((answer,),) = (row.answers for row in answered_rows("sft", str(path), renderer))
        pairs = zip(answer.rendered.input_ids, answer.rendered.mask, strict=True)
        trained = renderer.text([token for token, is_trained in pairs if is_trained])
        assert trained == (wanted or renderer.text(answer.rendered.input_ids))


def test_the_audit_tells_texts_and_scoring_takes_conversations_only(base: Path, tmp_path: Path) -> None:
    facts = read_base(base)
    order = AuditOrder(
        base=facts,
        chat_template=choose_template(facts, QWEN3).template,
        files=[AuditFile(role="train", path=str(lab.write_rows(tmp_path / "texts.jsonl", TEXTS)))],
        loss_on="assistant",
        method="sft",
    )
    mask = TrlRank().audit(order).files[0].mask
    assert (mask.rows, mask.rows_of_text, mask.rows_without_loss) == (4, 4, 0)
    assert mask.tokens == mask.trained_tokens
    assert [span.text for span in mask.first_rows[0].spans] == ["The German word for red is rot.<|im_end|>"]
    assert mask.end_of_turn_trained
    order.files[0].path = str(lab.write_rows(tmp_path / "answers.jsonl", ANSWERS))
    mask = TrlRank().audit(order).files[0].mask
    assert (mask.rows_of_text, mask.end_of_turn_trained) == (0, True)
    assert 0 < mask.trained_tokens < mask.tokens
    order.method = ""
    with pytest.raises(Exception, match="messages: is missing"):
        TrlRank().audit(order)


def test_a_run_on_texts_goes_on_to_the_same_bytes(base: Path, tmp_path: Path) -> None:
    whole = lab.MemoryContext(order_of(base, tmp_path, TEXTS, steps=6))
    TrlRank().run(whole)
    stopped = lab.RunOrder()
    stopped.CopyFrom(whole.order)
    stopped.work_dir = str(tmp_path / "stopped")
    save, go_on = StopMode.STOP_MODE_SAVE, StopMode.STOP_MODE_UNSPECIFIED
    context = lab.MemoryContext(stopped, stop_when=lambda seen: save if seen.step >= 3 else go_on)
    with pytest.raises(RunStopped):
        TrlRank().run(context)
    (step,) = context.checkpoints
    resumed = lab.RunOrder()
    resumed.CopyFrom(whole.order)
    resumed.work_dir = str(tmp_path / "resumed")
    resumed.resume_from, resumed.resume_step = str(context.checkpoint_folder(step)), step
    TrlRank().run(lab.MemoryContext(resumed))
    name = "adapter_model.safetensors"
    assert (tmp_path / "resumed" / "output" / name).read_bytes() == (whole.output / name).read_bytes()


def test_a_base_without_a_template_is_trained_on_texts(tmp_path: Path) -> None:
    base = lab.build_base(tmp_path / "base")
    assert not read_base(base).chat_template
    context = lab.MemoryContext(order_of(base, tmp_path / "run", TEXTS, steps=2))
    TrlRank().run(context)
    assert context.output.is_dir()
