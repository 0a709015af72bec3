"""Try a run whose weights are split, before its first step: what cannot work fails in the first minute.

The state is written, a step taken on the longest rows, a checkpoint saved, a short answer
given; then that first state is read. It proves that one can be, and leaves no trace of the
trial: weights, optimiser and schedule are as they were, by the way that a resumed run goes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tunefleet.job.v1.event_pb2 import Preflight, RunPhase
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, TunefleetError, from_exception
from tunefleet_core.rendering import (
    Renderer,
    longest_rows,
    naming_full_disk_of,
    prompt_to_try,
    require_number,
    require_room,
    stop_if_asked,
)
from tunefleet_trl.answering import likeliest_answer
from tunefleet_trl.memory import peak_memory_bytes
from tunefleet_trl.preflight import random_state_kept
from tunefleet_trl.processes import is_first, wait_for_all, writing_together
from tunefleet_trl.split.trainer import SplitTrainer

__all__ = ["preflight"]

_ANSWER_TOKENS = 2


def preflight(context: RunContext, trainer: SplitTrainer, renderer: Renderer) -> None:
    """Try a run and tell what was measured. Every process does the same.

    Args:
        context: The run.
        trainer: A trainer that is about to take its first step.
        renderer: Tokenizer and template of the run.

    Raises:
        RunStopped: the run was asked to stop meanwhile.
        TunefleetError: OUT_OF_MEMORY with the smallest change that may help, DISK_FULL,
            TEMPLATE_MISMATCH if no prompt can be rendered, BACKEND_FAILED if the loss is no
            number before anything was learned.
    """
    context.enter(RunPhase.RUN_PHASE_PREFLIGHT)
    begun = time.monotonic()
    found = Preflight()
    with random_state_kept(), _state_kept(context, trainer):
        _try_step(trainer, found)
        stop_if_asked(context)
        _try_saving(context, trainer, found)
        stop_if_asked(context)
        prompt = prompt_to_try(context, renderer, longest=found.longest_row_tokens)
        stops = set(renderer.template.stop_token_ids)
        with torch.no_grad():
            answer = likeliest_answer(trainer.model, prompt, most_tokens=_ANSWER_TOKENS, stops=stops)
        found.answer = str(renderer.tokenizer.decode(answer, skip_special_tokens=True))
    found.peak_memory_bytes = peak_memory_bytes()
    found.seconds = time.monotonic() - begun
    context.preflight(found)


def _try_step(trainer: SplitTrainer, found: Preflight) -> None:
    lengths = trainer.row_lengths()
    rows = longest_rows(lengths, trainer.args.per_device_train_batch_size)
    found.longest_row_tokens = lengths[rows[0]]
    begun = time.monotonic()
    tokens = trainer.count_tokens()
    try:
        loss = trainer.try_step(trainer.trial_batch(rows))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, TunefleetError) or from_exception(error).reason is not Reason.OUT_OF_MEMORY:
            raise
        what = "A step on the longest rows"
        raise trainer.out_of_memory(found.longest_row_tokens, error, what=what) from error
    trainer.forget_metrics(tokens)
    found.step_seconds = time.monotonic() - begun
    require_number(loss)


@contextmanager
def _state_kept(context: RunContext, trainer: SplitTrainer) -> Iterator[None]:
    """Write the state of a run that has not begun, and read it again after the trial."""
    with _scratch(context, "before") as folder:
        _write(context, trainer, folder)
        yield
        trainer.read_training_state(folder)
        wait_for_all(context.order)


def _try_saving(context: RunContext, trainer: SplitTrainer, found: Preflight) -> None:
    """Write a checkpoint as the run will, and compare its size with the disk.

    Raises:
        TunefleetError: DISK_FULL if as many folders as the run keeps do not fit.
    """
    work = Path(context.order.work_dir)
    begun = time.monotonic()
    with _scratch(context, "after") as folder:
        _write(context, trainer, folder)
        found.save_seconds = time.monotonic() - begun
        found.checkpoint_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        wait_for_all(context.order)
    policy = context.order.resolved_spec.spec.train.checkpoint
    require_room(work, found, policy, steps=trainer.state.max_steps, every=trainer.args.save_steps)


def _write(context: RunContext, trainer: SplitTrainer, folder: Path) -> None:
    with (
        naming_full_disk_of(Path(context.order.work_dir), Preflight()),
        writing_together(context.order, lambda: _made(folder)) as shared,
    ):
        trainer.write_checkpoint(shared)


@contextmanager
def _scratch(context: RunContext, name: str) -> Iterator[Path]:
    """Yield a folder that is not there yet; the first process takes it away afterwards."""
    folder = Path(context.order.work_dir) / f"preflight-{name}"
    try:
        yield folder
    finally:
        if is_first(context.order):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _made(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True)
    yield folder
