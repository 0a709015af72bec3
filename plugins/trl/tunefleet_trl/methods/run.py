"""A run of any method but SFT: rows, trainer, steps, output. The beginning and the end are SFT's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet_core.backend import RunContext
from tunefleet_core.rendering import Renderer, TrainingRows, is_preflight_wanted
from tunefleet_trl.life import attach_life, restore_best, with_rollbacks
from tunefleet_trl.loading import Hardware, load_base
from tunefleet_trl.methods.preference import preference_trainer
from tunefleet_trl.methods.reference_free import REFERENCE_FREE, reference_free_trainer
from tunefleet_trl.methods.reward_modelling import train_reward_model
from tunefleet_trl.methods.rows import answered_training_rows
from tunefleet_trl.methods.scored import SCORED, scored_trainer
from tunefleet_trl.outcome import base_numbers_of, write_output
from tunefleet_trl.preflight import preflight
from tunefleet_trl.processes import is_first, leave_processes

__all__ = ["train_by_method"]


def train_by_method(context: RunContext, renderer: Renderer, hardware: Hardware, method: str) -> RunOutput:
    """Train by a method of METHODS and write what was learned.

    Raises:
        RunStopped: the run was asked to stop; with a checkpoint if it was asked to save.
        TunefleetError: DATA_INVALID, BASE_INVALID, NO_TRAINED_TOKEN, TRAINING_DIVERGED.
    """
    if method == "reward":
        return train_reward_model(context, renderer, hardware)
    rows = answered_training_rows(context, renderer, method)
    references = rows.references()
    return with_rollbacks(
        context, lambda now: _train_once(now, renderer, rows, references, hardware=hardware, method=method)
    )


def _train_once(
    context: RunContext,
    renderer: Renderer,
    rows: Any,
    references: TrainingRows,
    *,
    hardware: Hardware,
    method: str,
) -> RunOutput:
    """Train from the start, or from the checkpoint of the order, to the output."""
    spec = context.order.resolved_spec
    model = load_base(spec.base, hardware, quantization=spec.spec.train.quantization)
    base_numbers = base_numbers_of(context, model, references)
    trainer = _builder(method)(
        context,
        renderer,
        rows,
        hardware,
        model=model,
        before_first_step=partial(_try_first, context, renderer, references),
    )
    attach_life(context, trainer, renderer, hardware)
    trainer.row_places = rows.places()
    trainer.train(resume_from_checkpoint=context.order.resume_from or None)
    leave_processes(context.order)
    if not is_first(context.order):
        return RunOutput(step=trainer.state.global_step)
    restore_best(context, trainer)
    return write_output(context, trainer, renderer, references, hardware=hardware, base_numbers=base_numbers)


def _builder(method: str) -> Callable[..., Any]:
    if method in SCORED:
        return scored_trainer
    return reference_free_trainer if method in REFERENCE_FREE else preference_trainer


def _try_first(context: RunContext, renderer: Renderer, rows: TrainingRows, trainer: Any) -> None:
    if is_preflight_wanted(context):
        preflight(context, trainer, renderer, rows.train)
