"""A training run from order to output: load, train with TRL, measure, write."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet.job.v1.event_pb2 import RunPhase
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rendering import (
    Renderer,
    TrainingRows,
    is_preflight_wanted,
    renderer_of,
    training_rows,
)
from tunefleet_trl.compiling import compile_arguments, require_compilable
from tunefleet_trl.kernels import with_kernels
from tunefleet_trl.life import RowPlaces, attach_life, restore_best, with_rollbacks
from tunefleet_trl.loading import Hardware, load_base, prepare_hardware
from tunefleet_trl.methods import METHODS
from tunefleet_trl.methods.teacher_answers import answer_prompts
from tunefleet_trl.outcome import base_numbers_of, write_output
from tunefleet_trl.preflight import preflight
from tunefleet_trl.processes import is_first, join_processes, leave_processes
from tunefleet_trl.quantising import FORMATS
from tunefleet_trl.split.options import is_split
from tunefleet_trl.supervised import supervised_arguments, supervised_datasets, supervised_trainer
from tunefleet_trl.trainer import RunTrainer

__all__ = ["train"]


def train(context: RunContext) -> RunOutput:
    """Run a training order to its adapter, or to whole weights.

    Raises:
        RunStopped: the run was asked to stop; with a checkpoint if it was asked to save.
        TunefleetError: CAPABILITY_UNSUPPORTED, DATA_INVALID, BASE_INVALID, NO_TRAINED_TOKEN,
            TRAINING_DIVERGED.
    """
    spec = context.order.resolved_spec
    _refuse_unsupported(spec)
    require_compilable(spec.spec)
    context.enter(RunPhase.RUN_PHASE_LOADING)
    hardware = prepare_hardware(context.order, dtype=spec.spec.train.dtype)
    if spec.spec.train.dtype == "float16" != hardware.dtype:
        context.notice(
            "float16 is not computed on a processor: this run computes in float32.",
            hint="Leave train.dtype out, or run it on a device.",
        )
    if compile_arguments(spec.spec) and hardware.kind == "cpu":
        context.notice(
            "On a processor compiling often costs more than it saves: the first steps may wait for minutes.",
            hint="Leave backend_options.compile out, or run it on a device.",
        )
    is_in_parts = is_split(spec.spec)
    if not is_in_parts:
        hardware = with_kernels(context, hardware)
    join_processes(context.order, hardware.kind)
    renderer = renderer_of(spec.base, spec.chat_template, loss_on=spec.spec.train.loss_on)
    if is_in_parts:
        from tunefleet_trl.split.training import train_split  # few runs need it

        return train_split(context, renderer, hardware)
    method = spec.spec.train.method.WhichOneof("method") or "sft"
    if method == "distill":
        return _distilled(context, renderer, hardware)
    if method in METHODS:
        from tunefleet_trl.methods.run import train_by_method  # its trainers cost a second to import

        return train_by_method(context, renderer, hardware, method)
    return _supervised(context, renderer, hardware)


def _distilled(context: RunContext, renderer: Renderer, hardware: Hardware) -> RunOutput:
    """Learn a teacher's answers as any others, or its probabilities."""
    spec = context.order.resolved_spec
    if spec.spec.train.method.distill.teacher.HasField("endpoint"):
        kept = answer_prompts(context)
        return _supervised(context, renderer, hardware, kept_files=kept)
    from tunefleet_trl.methods.distilling import distilling_trainer

    return _supervised(context, renderer, hardware, build=distilling_trainer)


def _supervised(
    context: RunContext,
    renderer: Renderer,
    hardware: Hardware,
    *,
    build: Callable[..., Any] | None = None,
    kept_files: tuple[Path, ...] = (),
) -> RunOutput:
    """Train on answers that rows hold, by the trainer that `build` makes, else the library's own."""
    rows = training_rows(context, renderer)
    step = partial(_train_once, renderer=renderer, rows=rows, hardware=hardware, build=build or _trainer)
    return with_rollbacks(context, partial(step, kept_files=kept_files))


def _train_once(
    context: RunContext,
    *,
    renderer: Renderer,
    rows: TrainingRows,
    hardware: Hardware,
    build: Callable[..., Any],
    kept_files: tuple[Path, ...],
) -> RunOutput:
    """Train from the start, or from the checkpoint of the order, to the output."""
    spec = context.order.resolved_spec
    model = load_base(spec.base, hardware, quantization=spec.spec.train.quantization)
    base_numbers = base_numbers_of(context, model, rows)
    trainer = build(context, renderer, rows, hardware, model=model)
    trainer.kept_files = kept_files
    attach_life(context, trainer, renderer, hardware)
    trainer.row_places = RowPlaces(rows.train)
    trainer.train(resume_from_checkpoint=context.order.resume_from or None)
    leave_processes(context.order)
    if not is_first(context.order):
        return RunOutput(step=trainer.state.global_step)
    restore_best(context, trainer)
    return write_output(context, trainer, renderer, rows, hardware=hardware, base_numbers=base_numbers)


def _refuse_unsupported(spec: ResolvedSpec) -> None:
    train = spec.spec.train
    if train.quantization and not (train.quantization in FORMATS and train.HasField("adapter")):
        raise _unsupported(
            "QUANTIZED_TRAINING", f"this training on a base quantised to {train.quantization}",
            "Remove train.quantization from the job file.",
        )  # fmt: skip
    method = train.method.WhichOneof("method") or "sft"
    if method != "sft" and method not in METHODS:
        raise _unsupported(
            "METHODS", f"training by {method}", "Use another method: sft, " + ", ".join(METHODS)
        )


def _unsupported(capability: str, what: str, hint: str) -> TunefleetError:
    return TunefleetError(
        Reason.CAPABILITY_UNSUPPORTED,
        f"Backend 'trl' does not have the capability {capability}: it does not do {what} yet.",
        hint=hint,
        metadata={"backend": "trl", "capability": capability},
    )


def _trainer(
    context: RunContext, renderer: Renderer, rows: TrainingRows, hardware: Hardware, *, model: Any
) -> RunTrainer:
    datasets = supervised_datasets(context.order.resolved_spec, rows, hardware)
    return supervised_trainer(
        context,
        renderer,
        datasets,
        hardware,
        arguments=supervised_arguments(context.order, hardware, datasets),
        model=model,
        before_first_step=partial(_try_first, context, renderer, rows),
    )


def _try_first(context: RunContext, renderer: Renderer, rows: TrainingRows, trainer: RunTrainer) -> None:
    if is_preflight_wanted(context):
        preflight(context, trainer, renderer, rows.train)
