"""Several sources of rows: each counted and told, and a run that resumes goes on with the same ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import trl_lab as lab

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet_core.backend import RunStopped
from tunefleet_trl.rank import TrlRank


def order_of(base: Path, folder: Path, work: str) -> lab.RunOrder:
    """Return an order with half of one source and a bounded part of another, taken several times."""
    data = [
        ("train", lab.colours(folder / "colours.jsonl", copies=3)),
        (
            "train",
            lab.write_rows(folder / "rare.jsonl", [lab.chat("sun", "sonne"), lab.chat("moon", "mond")]),
        ),
    ]
    spec = lab.train_spec(steps=6, dropout=0.1)
    resolved = lab.resolved(base, data=data, spec=spec)
    resolved.data[0].weight = 0.5
    resolved.data[1].repeats, resolved.data[1].cap = 4, 5
    return lab.order(resolved, folder / work)


def test_a_mixture_is_counted_per_source_and_resumes_bitwise(base: Path, tmp_path: Path) -> None:
    whole = lab.MemoryContext(order_of(base, tmp_path, "whole"))
    TrlRank().run(whole)
    assert [text for text in whole.notices if text.startswith("An epoch takes")] == [
        "An epoch takes 6 rows of 'colours.jsonl', which has 12.",
        "An epoch takes 5 rows of 'rare.jsonl', which has 2.",
    ]
    steps = [metrics for metrics in whole.told if metrics.HasField("loss")][:3]  # an epoch: 4, 4 and 3 rows
    counts = [(step.extra["rows/colours"], step.extra["rows/rare"]) for step in steps]
    assert [sum(step) for step in counts] == [4, 4, 3]
    assert [sum(source) for source in zip(*counts, strict=True)] == [6, 5]
    save, go_on = StopMode.STOP_MODE_SAVE, StopMode.STOP_MODE_UNSPECIFIED
    stopped = lab.MemoryContext(
        order_of(base, tmp_path, "stopped"), stop_when=lambda seen: save if seen.step >= 2 else go_on
    )
    with pytest.raises(RunStopped):
        TrlRank().run(stopped)
    (step,) = stopped.checkpoints
    order = order_of(base, tmp_path, "resumed")
    order.resume_from, order.resume_step = str(stopped.checkpoint_folder(step)), step
    resumed = lab.MemoryContext(order)
    TrlRank().run(resumed)
    name = "adapter_model.safetensors"
    assert (resumed.output / name).read_bytes() == (whole.output / name).read_bytes()
