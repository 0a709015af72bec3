"""Try everything a run will need before its first step: what cannot work fails in the first minute.

A step at rate 0 on the longest rows, on one where memory is out of the question; a checkpoint
written and read back; one short answer. A step draws its random numbers from its own number, so
nothing is left of the trial.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tunefleet.job.v1.event_pb2 import Preflight, RunPhase
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, from_exception
from tunefleet_core.rendering import (
    Renderer,
    longest_rows,
    naming_full_disk_of,
    prompt_to_try,
    require_number,
    require_room,
    rows_to_try,
    stop_if_asked,
)
from tunefleet_core.run_health import MemoryUse, out_of_memory
from tunefleet_mlx.answering import likeliest_answer
from tunefleet_mlx.memory import free_memory_bytes, peak_memory_bytes
from tunefleet_mlx.trainer import Trainer

__all__ = ["preflight"]

_ANSWER_TOKENS = 2


def preflight(
    context: RunContext, trainer: Trainer, renderer: Renderer, write_checkpoint: Callable[[Path], None]
) -> None:
    """Try a run and tell what was measured.

    Args:
        context: The run.
        trainer: The trainer, which has taken no step.
        renderer: Tokenizer and template of the run.
        write_checkpoint: Writes a checkpoint into an empty folder.

    Raises:
        RunStopped: the run was asked to stop meanwhile.
        TunefleetError: OUT_OF_MEMORY with the smallest change that may help, DISK_FULL,
            TEMPLATE_MISMATCH if no prompt can be rendered, BACKEND_FAILED if the loss is no
            number before anything was learned.
    """
    context.enter(RunPhase.RUN_PHASE_PREFLIGHT)
    begun = time.monotonic()
    found = Preflight()
    _try_step(trainer, found, rows=rows_to_try(context, trainer.plan.micro, free_memory_bytes()))
    stop_if_asked(context)
    _try_saving(context, trainer, found, write_checkpoint)
    stop_if_asked(context)
    prompt = prompt_to_try(context, renderer, longest=found.longest_row_tokens)
    stops = set(renderer.template.stop_token_ids)
    answer = likeliest_answer(trainer.model, prompt, most_tokens=_ANSWER_TOKENS, stops=stops)
    found.answer = str(renderer.tokenizer.decode(answer, skip_special_tokens=True))
    found.peak_memory_bytes = peak_memory_bytes()
    found.seconds = time.monotonic() - begun
    context.preflight(found)


def _try_step(trainer: Trainer, found: Preflight, *, rows: int) -> None:
    lengths, plan = trainer.row_lengths(), trainer.plan
    longest = longest_rows(lengths, rows)
    found.longest_row_tokens = lengths[longest[0]]
    begun = time.monotonic()
    try:
        loss = trainer.try_step(longest).loss
    except (MemoryError, RuntimeError) as error:
        if from_exception(error).reason is not Reason.OUT_OF_MEMORY:
            raise
        use = MemoryUse(
            micro_batch_size=plan.micro,
            batch_size=plan.micro * plan.accumulation,
            longest=found.longest_row_tokens,
            peak_bytes=peak_memory_bytes(),
        )
        raise out_of_memory(use, error, what="A step on the longest rows") from error
    found.step_seconds = time.monotonic() - begun
    require_number(loss)


def _try_saving(
    context: RunContext, trainer: Trainer, found: Preflight, write_checkpoint: Callable[[Path], None]
) -> None:
    """Write a checkpoint as the run will, read it back, and compare its size with the disk."""
    work = Path(context.order.work_dir)
    folder = work / "preflight"
    begun = time.monotonic()
    try:
        with naming_full_disk_of(work, found):
            folder.mkdir(parents=True)
            write_checkpoint(folder)
            found.checkpoint_bytes = sum(path.stat().st_size for path in folder.iterdir())
            trainer.resume(folder)
        found.save_seconds = time.monotonic() - begun
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    plan = trainer.plan
    policy = context.order.resolved_spec.spec.train.checkpoint
    require_room(work, found, policy, steps=plan.total_steps, every=plan.save_every)
