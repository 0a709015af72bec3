"""A run that is split by FSDP2 from its rows to its output: train in parts, put together, measure, write."""

from __future__ import annotations

from functools import partial
from typing import Any

from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet_core.backend import RunContext
from tunefleet_core.rendering import Renderer, TrainingRows, is_preflight_wanted, training_rows
from tunefleet_trl.life import with_rollbacks
from tunefleet_trl.loading import Hardware, load_base
from tunefleet_trl.processes import leave_processes
from tunefleet_trl.split.fsdp import FSDP_ARGUMENTS, FsdpTrainer, forget_fsdp
from tunefleet_trl.split.preflight import preflight
from tunefleet_trl.split.to_output import train_to_output
from tunefleet_trl.supervised import supervised_arguments, supervised_datasets, supervised_trainer

__all__ = ["train_split"]


def train_split(context: RunContext, renderer: Renderer, hardware: Hardware) -> RunOutput:
    """Train on answers that rows hold. The processes of the run have met.

    Raises:
        RunStopped: the run was asked to stop; with a checkpoint if it was asked to save.
        TunefleetError: DATA_INVALID, BASE_INVALID, NO_TRAINED_TOKEN, TRAINING_DIVERGED.
    """
    rows = training_rows(context, renderer)
    return with_rollbacks(context, partial(_train_once, renderer=renderer, rows=rows, hardware=hardware))


def _train_once(
    context: RunContext, *, renderer: Renderer, rows: TrainingRows, hardware: Hardware
) -> RunOutput:
    """Train from the start, or from the checkpoint of the order, to the output."""
    trainer = _trainer(context, renderer, rows, hardware)

    def part() -> None:
        leave_processes(context.order)
        forget_fsdp()

    return train_to_output(context, trainer, renderer, rows=rows, hardware=hardware, part=part)


def _trainer(context: RunContext, renderer: Renderer, rows: TrainingRows, hardware: Hardware) -> Any:
    order = context.order
    datasets = supervised_datasets(order.resolved_spec, rows, hardware)
    return supervised_trainer(
        context,
        renderer,
        datasets,
        hardware,
        arguments=supervised_arguments(order, hardware, datasets, **FSDP_ARGUMENTS),
        # On the host: a device takes its parts of it alone.
        model=load_base(order.resolved_spec.base, Hardware(kind="cpu", dtype=hardware.dtype)),
        before_first_step=partial(_try_first, context, renderer),
        kind=FsdpTrainer,
    )


def _try_first(context: RunContext, renderer: Renderer, trainer: Any) -> None:
    if is_preflight_wanted(context):
        preflight(context, trainer, renderer)
