"""Training orders for DeepSpeed, and runs of them in rank processes as a contract host drives them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import process_lab
import torch.distributed as dist
import trl_lab as lab
from deepspeed import comm
from deepspeed.utils import groups
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl_lab import MemoryContext

from tunefleet.backend.v1.run_pb2 import RunOrder
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet_deepspeed.rank import DeepSpeedRank
from tunefleet_trl.rank import TrlRank

__all__ = [
    "EVERY",
    "STEPS",
    "MemoryContext",
    "by_trl",
    "here",
    "losses",
    "make_order",
    "moved",
    "output_bytes",
    "part",
    "resumed",
    "run",
    "run_here",
    "succeeded",
    "validation_losses",
]

ENTRY = "tunefleet_deepspeed.rank:DeepSpeedRank"
STEPS = 8
EVERY = 3


def make_order(
    base: Path,
    folder: Path,
    *,
    adaptation: str = "lora",
    model_type: str = "qwen3",
    dropout: float = 0.0,
    steps: int = STEPS,
    **options: Any,
) -> RunOrder:
    """Return an order for steps of 4 rows, one at a time, over 16 rows of different lengths.

    `options` are the job's `backend_options`.
    """
    spec = lab.adapted_spec(adaptation, steps=steps, micro_batch_size=1)
    spec.backend = "deepspeed"
    if adaptation != "full":
        spec.train.adapter.lora.dropout = dropout
    spec.train.checkpoint.every_steps = EVERY
    spec.backend_options.update(options)
    rows = [lab.chat(word, answer + "!" * number) for number, (word, answer) in enumerate(lab.PAIRS * 4)]
    folder.mkdir(parents=True, exist_ok=True)
    data = [
        ("train", lab.write_rows(folder / "train.jsonl", rows)),
        ("validation", lab.write_rows(folder / "validation.jsonl", rows[:5])),
    ]
    return lab.order(lab.resolved(base, model_type=model_type, data=data, spec=spec), folder / "work")


def run(order: RunOrder, *, processes: int = 2, watch: process_lab.Watch | None = None) -> process_lab.Hosted:
    """Run an order in so many rank processes."""
    return process_lab.run_hosted(order, ENTRY, processes=processes, watch=watch)


def succeeded(order: RunOrder, *, processes: int = 2) -> process_lab.Hosted:
    """Run an order to its end."""
    hosted = run(order, processes=processes)
    assert hosted.ended.outcome == AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED, hosted.printed
    return hosted


def here(order: RunOrder) -> MemoryContext:
    """Run an order in this process, alone."""
    context = MemoryContext(order)
    run_here(context)
    return context


def run_here(context: MemoryContext) -> None:
    """The same in a context that is there already."""
    try:
        DeepSpeedRank().run(context)
    finally:
        part()


def part() -> None:
    """Leave no group of processes behind: a run is the last deed of its process, and here are many.

    The libraries remember groups and configuration beyond their end.
    """
    unset_hf_deepspeed_config()
    for name in ("ACCELERATE_USE_DEEPSPEED", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)
    if dist.is_initialized():
        dist.destroy_process_group()
    groups._WORLD_GROUP = None
    comm.comm.cdb = None


def by_trl(order: RunOrder, folder: Path) -> MemoryContext:
    """Run the same order by trl in this process."""
    other = moved(order, folder)
    other.resolved_spec.spec.backend = "trl"
    other.resolved_spec.spec.resources.devices = 1
    other.resolved_spec.spec.ClearField("backend_options")
    context = MemoryContext(other)
    TrlRank().run(context)
    return context


def losses(context: MemoryContext) -> dict[int, float]:
    """Return the loss of every step."""
    return {item.step: item.loss for item in context.told if item.HasField("loss")}


def validation_losses(context: MemoryContext) -> list[float]:
    """Return validation losses in their order."""
    return [item.validation_loss for item in context.told if item.HasField("validation_loss")]


def moved(order: RunOrder, work: Path) -> RunOrder:
    """Return the same order in another folder."""
    other = RunOrder()
    other.CopyFrom(order)
    other.work_dir = str(work)
    return other


def resumed(order: RunOrder, folder: Path, step: int) -> RunOrder:
    """Return the same order in another folder, from a checkpoint of the first."""
    again = moved(order, folder)
    again.resume_step = step
    again.resume_from = str(Path(order.work_dir) / "checkpoints" / f"step-{step:08d}")
    return again


def output_bytes(order: RunOrder) -> dict[str, bytes]:
    """Return the files that a run left."""
    return {path.name: path.read_bytes() for path in (Path(order.work_dir) / "output").iterdir()}
