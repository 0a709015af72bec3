"""What every trainer of the library is told alike: steps, batches, rates, precision, reports."""

from __future__ import annotations

import math
import os
from typing import Any

from tunefleet.backend.v1.run_pb2 import RunOrder
from tunefleet.job.v1.spec_pb2 import TrainSpec
from tunefleet_core.errors import TunefleetError
from tunefleet_trl.compiling import compile_arguments
from tunefleet_trl.loading import Hardware
from tunefleet_trl.optimising import optimizer_arguments
from tunefleet_trl.processes import count_of

__all__ = ["common_arguments"]

_VALIDATIONS = 10
"""Validations in a run: enough to see a turning point, few enough not to rule the time."""
_DEFAULT_SEED = 42


def common_arguments(order: RunOrder, hardware: Hardware, *, rows: int, validates: bool) -> dict[str, Any]:
    """Return the arguments that any config of the library takes.

    Args:
        order: The run.
        hardware: What it computes on.
        rows: Training rows of an epoch.
        validates: Whether there are validation rows.
    """
    train = order.resolved_spec.spec.train
    processes = count_of(order)
    micro, accumulation = _batches(train, processes)
    total = _total_steps(train, rows, micro * processes, accumulation)
    checkpointing = (
        train.gradient_checkpointing if train.HasField("gradient_checkpointing") else hardware.kind == "cuda"
    )
    return {
        "output_dir": os.path.join(order.work_dir, "trainer"),
        "per_device_train_batch_size": micro,
        "per_device_eval_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "max_steps": total,
        **optimizer_arguments(train.optim, total),
        "seed": train.seed if train.HasField("seed") else _DEFAULT_SEED,
        "bf16": hardware.dtype == "bfloat16",
        "fp16": hardware.dtype == "float16",  # with a scaler of the loss
        "use_liger_kernel": hardware.is_liger,
        **compile_arguments(order.resolved_spec.spec),
        "use_cpu": hardware.kind == "cpu",
        "gradient_checkpointing": checkpointing,
        "neftune_noise_alpha": train.neftune_alpha or None,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": hardware.kind == "cuda",
        "eval_strategy": "steps" if validates else "no",
        "eval_steps": train.validate_every_steps or max(1, total // _VALIDATIONS),
        "save_strategy": "steps",
        "save_steps": max(1, train.checkpoint.every_steps or 200),
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "log_level_replica": "error",  # of several processes the later ones have no more to say
        "report_to": "none",
    }


def _batches(train: TrainSpec, processes: int) -> tuple[int, int]:
    """Return (rows per forward pass of a process, forward passes per optimiser step).

    Together they are the rows of a step that the job names, whatever the number of processes.
    """
    batch = train.optim.batch_size or 16
    if batch % processes:
        raise TunefleetError.field(
            "train.optim.batch_size", f"{batch} cannot be shared evenly by {processes} devices"
        )
    share = batch // processes
    micro = train.optim.micro_batch_size or share
    if share % micro:
        raise TunefleetError.field(
            "train.optim.micro_batch_size",
            f"{micro} does not divide the {share} rows of a step that each device takes"
            if processes > 1
            else f"{micro} does not divide the batch size {batch}",
        )
    return micro, share // micro


def _total_steps(train: TrainSpec, rows: int, at_once: int, accumulation: int) -> int:
    """Return the optimiser steps; `at_once` rows go through the model together, over all processes."""
    if train.optim.max_steps:
        return train.optim.max_steps
    per_epoch = math.ceil(math.ceil(rows / at_once) / accumulation)
    return max(1, math.ceil((train.optim.epochs or 1.0) * per_epoch))
