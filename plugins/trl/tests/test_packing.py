"""Packed rows are trained as if each were alone: the same loss, the same steps again after a stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trl_lab as lab
from datasets import Dataset

from tunefleet.backend.v1.inspect_pb2 import AuditFile, AuditOrder
from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet_core.backend import RunStopped
from tunefleet_core.catalog.base import read_base
from tunefleet_core.data import packed_sequences
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rendering import RenderedRow
from tunefleet_trl.loading import Hardware, load_base
from tunefleet_trl.packing import packed_dataset, require_isolation
from tunefleet_trl.rank import TrlRank

WORDS = (*lab.PAIRS, ("a long question about the colour of the sky at noon", "blau"), ("?", "!"))
LENGTH = 160
ROWS_IN_ALL = 12
"""A step of so many rows, or of as many sequences as they fill, sees all of them."""


def _spec(**values: Any) -> lab.JobSpec:
    spec = lab.train_spec(dropout=0.0, **values)
    spec.train.method.sft.packing = True
    spec.train.max_length = LENGTH
    return spec


def _losses(context: lab.MemoryContext) -> list[float]:
    return [metrics.loss for metrics in context.told if metrics.HasField("loss")]


def _tokens(context: lab.MemoryContext) -> int:
    return max(metrics.tokens for metrics in context.told)


def _context(
    base: Path, folder: Path, spec: lab.JobSpec, *, model_type: str = "qwen3", **fields: Any
) -> lab.MemoryContext:
    folder.mkdir()
    data = lab.write_rows(folder / "train.jsonl", [lab.chat(*pair) for pair in WORDS] * 2)
    resolved = lab.resolved(base, model_type=model_type, data=[("train", data)], spec=spec)
    return lab.MemoryContext(lab.order(resolved, folder / "work"), **fields)


@pytest.mark.parametrize(
    ("model_type", "length"), [("qwen3", LENGTH), pytest.param("gpt_oss", 512, marks=pytest.mark.slow)]
)
def test_the_loss_of_packed_rows_is_that_of_the_rows_alone(
    base: Path, tmp_path: Path, model_type: str, length: int
) -> None:
    if model_type == "gpt_oss":  # in flat batches, so that no padding is routed; the auxiliary loss is
        # a mean over what lies in one batch, which here differs
        base = lab.build_base(tmp_path / "base", model_type=model_type, router_aux_loss_coef=0.0)
    alone = lab.train_spec(
        steps=2, dropout=0.0, batch_size=ROWS_IN_ALL, micro_batch_size=4, schedule="constant"
    )
    alone.train.max_length = length
    context = _context(base, tmp_path / "alone", alone, model_type=model_type)
    TrlRank().run(context)
    together = _spec(steps=2, schedule="constant", batch_size=ROWS_IN_ALL, micro_batch_size=2)
    together.train.max_length = length
    packed = _context(base, tmp_path / "packed", together, model_type=model_type)
    TrlRank().run(packed)
    assert _losses(packed) == pytest.approx(_losses(context), abs=2e-6)
    assert _tokens(packed) == _tokens(context), "padding is not counted"


def test_a_plan_counts_the_sequences_that_are_trained(base: Path, tmp_path: Path) -> None:
    context = _context(base, tmp_path / "run", _spec(steps=0, epochs=2.0, batch_size=2))
    spec = context.order.resolved_spec
    audit = TrlRank().audit(
        AuditOrder(
            base=spec.base,
            chat_template=spec.chat_template,
            files=[AuditFile(role="train", path=spec.data[0].path)],
            packing=True,
        )
    )
    lengths = {item.tokens: item.rows for item in audit.files[0].mask.lengths}
    assert sum(lengths.values()) == ROWS_IN_ALL
    sequences = packed_sequences(lengths, LENGTH)
    assert sequences < ROWS_IN_ALL
    TrlRank().run(context)
    assert context.told[-1].total_steps == context.told[-1].step == 2 * -(-sequences // 2)


def test_the_mask_is_kept_and_no_row_predicts_the_next_one() -> None:
    rows = [RenderedRow(input_ids=[5, 6, 7], mask=[0, 1, 1]), RenderedRow(input_ids=[8, 9], mask=[1, 1])]
    (sequence,) = packed_dataset(rows, 8)
    assert sequence == {
        "input_ids": [5, 6, 7, 8, 9],
        "labels": [-100, 6, 7, -100, 9],
        "seq_lengths": [3, 2],
    }


def test_a_packed_run_resumes_in_the_same_bytes(base: Path, tmp_path: Path) -> None:
    def spec() -> lab.JobSpec:
        wanted = _spec(steps=6, batch_size=2)
        wanted.train.adapter.lora.dropout = 0.1
        return wanted

    whole = _context(base, tmp_path / "whole", spec())
    TrlRank().run(whole)
    stopped = _context(
        base,
        tmp_path / "stopped",
        spec(),
        stop_when=lambda run: StopMode.STOP_MODE_SAVE if run.step >= 2 else StopMode.STOP_MODE_UNSPECIFIED,
    )
    with pytest.raises(RunStopped):
        TrlRank().run(stopped)
    resumed = _context(base, tmp_path / "resumed", spec())
    resumed.order.resume_from, resumed.order.resume_step = str(stopped.checkpoint_folder(3)), 3
    TrlRank().run(resumed)
    assert _losses(stopped) + _losses(resumed) == _losses(whole)
    weights = "adapter_model.safetensors"
    assert (resumed.output / weights).read_bytes() == (whole.output / weights).read_bytes()


ROWS = Dataset.from_list([{"input_ids": [*range(40, 60), *range(70, 90)], "seq_lengths": [20, 20]}])
FURTHER: dict[str, dict[str, Any]] = {
    "gemma2": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8},
    "mistral": {"sliding_window": 8},
    "gpt_oss": {"sliding_window": 8},
    "qwen3_moe": {},
}


def _model(folder: Path, model_type: str, **config: Any) -> Any:
    base = read_base(lab.build_base(folder, model_type=model_type, **config))
    return load_base(base, Hardware(kind="cpu", dtype="float32"))


@pytest.mark.parametrize("model_type", FURTHER)
def test_rows_are_blind_to_each_other_in_every_kind_of_attention(tmp_path: Path, model_type: str) -> None:
    require_isolation(_model(tmp_path / "base", model_type, **FURTHER[model_type]), ROWS)


def test_a_model_that_carries_a_row_over_into_the_next_is_found(tmp_path: Path) -> None:
    model = _model(
        tmp_path / "base",
        "qwen3_5_text",
        num_hidden_layers=2,
        layer_types=["linear_attention", "full_attention"],
    )
    with pytest.raises(TunefleetError, match="see each other") as caught:
        require_isolation(model, ROWS)
    assert caught.value.reason is Reason.CAPABILITY_UNSUPPORTED
