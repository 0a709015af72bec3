"""The memory that a plan names is what torch has allocated at most in a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trl_lab as lab
from live_memory import LiveMemory

from tunefleet.job.v1.event_pb2 import Metrics
from tunefleet_core.backend import memory_layout
from tunefleet_core.resolve.estimate import estimate_train
from tunefleet_trl.head_tiles import HEAD_TILES
from tunefleet_trl.plugin import tunefleet_backends
from tunefleet_trl.rank import TrlRank

TOLERANCE = 0.1
TOKENS, STEPS = 256, 3
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 1000,
}
PLAIN = {"adaptation": "lora", "model_type": "llama", "rows": 2, "passes": 1, "dropout": 0.05}
CASES: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora-of-one-row": {"rows": 1},
    "lora-without-dropout": {"dropout": 0.0},
    "lora-in-bfloat16": {"dtype": "bfloat16"},
    "lora-without-dropout-in-bfloat16": {"dropout": 0.0, "dtype": "bfloat16"},
    "lora-on-attention": {"targets": ("q_proj", "v_proj")},
    "lora-checkpointed": {"checkpointing": True},
    "lora-of-qwen3": {"model_type": "qwen3"},
    "full": {"adaptation": "full"},
    "full-in-two-passes": {"adaptation": "full", "passes": 2},
    "full-in-bfloat16": {"adaptation": "full", "dtype": "bfloat16"},
    "full-checkpointed": {"adaptation": "full", "checkpointing": True},
    "full-of-qwen3": {"adaptation": "full", "model_type": "qwen3"},
}


class Told(lab.MemoryContext):
    """Notes what a step took; the first one has no state of the optimiser yet."""

    def __init__(self, memory: LiveMemory, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._memory = memory
        self.peaks: list[int] = []

    def metrics(self, metrics: Metrics) -> None:
        super().metrics(metrics)
        self.peaks.append(self._memory.peak_bytes)
        self._memory.peak_bytes = self._memory.live_bytes


@pytest.mark.parametrize("name", CASES)
def test_a_step_takes_what_was_planned(tmp_path: Path, name: str) -> None:
    case = {
        "adaptation": "lora",
        "model_type": "llama",
        "rows": 2,
        "passes": 1,
        "dropout": 0.05,
        **CASES[name],
    }
    base = lab.build_base(tmp_path / "base", model_type=case["model_type"], **SHAPE)
    # The template's own tokens and the question are 40 or so; each row is as long as the longest.
    rows = lab.write_rows(tmp_path / "rows.jsonl", [lab.chat("q" * 8, "a" * (TOKENS - 44))] * 12)
    sizes = {"batch_size": case["rows"] * case["passes"], "micro_batch_size": case["rows"]}
    spec = lab.adapted_spec(case["adaptation"], steps=STEPS, **sizes)
    train = spec.train
    train.max_length = TOKENS
    train.dtype = case.get("dtype", "float32")
    train.gradient_checkpointing = case.get("checkpointing", False)
    if case["adaptation"] == "lora":
        train.adapter.lora.dropout = case["dropout"]
    resolved = lab.resolved(base, model_type=case["model_type"], data=[("train", rows)], spec=spec)
    if targets := case.get("targets"):
        kept = [module for module in resolved.target_modules if module.endswith(targets)]
        resolved.target_modules[:] = kept
    layout = memory_layout(spec, tunefleet_backends()[0], device_kind="cpu")
    plan = estimate_train(train, resolved.base, resolved.target_modules, total_steps=STEPS, layout=layout)

    memory = LiveMemory()
    context = Told(memory, order=lab.order(resolved, tmp_path / "run"))
    with memory:
        TrlRank().run(context)
    assert plan.peak_bytes == pytest.approx(context.peaks[1], rel=TOLERANCE)


def test_the_head_is_cut_as_the_library_cuts_it() -> None:
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    assert HEAD_TILES.tokens == chunked_logprob.TOKEN_CHUNK_SIZE
    assert HEAD_TILES.entries == utils._CHUNKED_LOGPROB_CHUNK_SIZE
