"""Try everything a run will need before its first step: what cannot work fails in the first minute.

Forward, backward and an optimiser step on the longest rows, one checkpoint written and read
back, one short answer. The learning rate of that step is 0 and its optimiser is thrown away,
so weights, optimiser, random state and the order of the rows are as if nothing had been tried:
a run with this trial ends in the same bytes as one without.

It is kept cheap. The step is one micro batch, of a single row where the plan says that memory
cannot be the question; a second follows only where gradients and optimiser state are large
enough to matter to the peak, which adapters' are not. The answer is a word or two. Most of
what is left is what the first step would have paid for anyway.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import load_file

from tunefleet.backend.v1.run_pb2 import RunOrder
from tunefleet.job.v1.event_pb2 import Preflight, RunPhase
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, from_exception
from tunefleet_core.rendering import (
    RenderedRow,
    Renderer,
    longest_rows,
    naming_full_disk_of,
    prompt_to_try,
    require_number,
    require_room,
    rows_to_try,
    stop_if_asked,
)
from tunefleet_trl.answering import likeliest_answer
from tunefleet_trl.memory import free_memory_bytes, peak_memory_bytes
from tunefleet_trl.processes import agreed, is_first, writing_together

__all__ = ["preflight", "random_state_kept"]

_ANSWER_TOKENS = 2
_STATE_SHARE = 0.05
"""Share of the peak from which on gradients and optimiser state are tried beside the activations."""
_STATE_BYTES_PER_PARAMETER = 12
"""Gradient and the two moments of AdamW in float32."""


def preflight(context: RunContext, trainer: Any, renderer: Renderer, rows: Sequence[RenderedRow]) -> None:
    """Try a run and tell what was measured. Call it when the trainer is about to take its first step.

    Args:
        context: The run.
        trainer: A RunTrainer whose model and optimiser are prepared.
        renderer: Tokenizer and template of the run.
        rows: The training rows.

    Raises:
        RunStopped: the run was asked to stop meanwhile.
        TunefleetError: OUT_OF_MEMORY with the smallest change that may help, DISK_FULL with
            the bytes that are missing, TEMPLATE_MISMATCH if no prompt can be rendered,
            BACKEND_FAILED if the loss is no number before anything was learned.
    """
    context.enter(RunPhase.RUN_PHASE_PREFLIGHT)
    begun = time.monotonic()
    found = Preflight()
    try:
        with _leaving_no_trace(trainer):
            rows_tried = rows_to_try(context, trainer.args.per_device_train_batch_size, free_memory_bytes())
            _try_step(context.order, trainer, found, rows=rows_tried)
            stop_if_asked(context)
            _try_saving(context, trainer, found)
            stop_if_asked(context)
            if trainer.writes_answers:
                found.answer = _try_answer(context, trainer, renderer, rows)
    except (MemoryError, RuntimeError) as error:
        if from_exception(error).reason is not Reason.OUT_OF_MEMORY:
            raise
        raise trainer.out_of_memory(
            found.longest_row_tokens, error, what="A step on the longest rows"
        ) from error
    found.peak_memory_bytes = peak_memory_bytes()
    found.seconds = time.monotonic() - begun
    context.preflight(found)


@contextmanager
def _leaving_no_trace(trainer: Any) -> Iterator[None]:
    """Give back random state, gradients, counters and optimiser as they were."""
    tokens, was_training, optimizer = trainer.count_tokens(), trainer.model.training, trainer.optimizer
    trainer.optimizer = None
    with random_state_kept():
        try:
            yield
        finally:
            trainer.optimizer = optimizer
            trainer.forget_metrics(tokens)
            trainer.model.zero_grad(set_to_none=True)
            trainer.model.train(was_training)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Give back every generator that training draws from as it was."""
    states = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    has_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    gpus = torch.cuda.get_rng_state_all() if has_gpu else []
    try:
        yield
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if has_gpu:
            torch.cuda.set_rng_state_all(gpus)


def _try_step(order: RunOrder, trainer: Any, found: Preflight, *, rows: int) -> None:
    """Forward, backward and an optimiser step that moves nothing, on the longest rows.

    Every process does the same: a backward pass is an exchange with the others.
    """
    lengths = trainer.row_lengths()
    longest = longest_rows(lengths, rows)
    found.longest_row_tokens = lengths[longest[0]]
    begun = time.monotonic()
    optimizer = trainer.create_optimizer()
    batch = trainer.trial_batch(longest)
    _forward_and_backward(trainer, batch)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    gradients = [item.grad for item in trainer.model.parameters() if item.grad is not None]
    if torch.isfinite(torch.nn.utils.get_total_norm(gradients)):  # 0 times infinity would be a trace
        optimizer.step()
    found.step_seconds = time.monotonic() - begun
    state_bytes = _STATE_BYTES_PER_PARAMETER * sum(item.numel() for item in gradients)
    if agreed(order, state_bytes > _STATE_SHARE * peak_memory_bytes()):
        _forward_and_backward(trainer, batch)  # gradients and state stay: the peak of accumulation


def _forward_and_backward(trainer: Any, batch: Any) -> None:
    # The library's loop sets it before each step; models that scale their own loss read it.
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    loss = trainer.training_step(trainer.model_wrapped, copy(batch), trainer.trained_in(batch))
    require_number(loss.item())


def _try_saving(context: RunContext, trainer: Any, found: Preflight) -> None:
    """Write a checkpoint as the run will, read it back, and compare its size with the disk."""
    work = Path(context.order.work_dir)
    folder = work / "preflight"
    begun = time.monotonic()
    try:
        with naming_full_disk_of(work, found):
            with writing_together(context.order, lambda: _made(folder)) as shared:
                trainer.write_checkpoint(shared)
            if is_first(context.order):
                _read_back(folder, found)
                found.save_seconds = time.monotonic() - begun
    finally:
        if is_first(context.order):
            shutil.rmtree(folder, ignore_errors=True)
    policy = context.order.resolved_spec.spec.train.checkpoint
    require_room(work, found, policy, steps=trainer.state.max_steps, every=trainer.args.save_steps)


@contextmanager
def _made(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True)
    yield folder


def _read_back(folder: Path, found: Preflight) -> None:
    found.checkpoint_bytes = sum(path.stat().st_size for path in folder.iterdir())
    for path in folder.glob("*.safetensors"):
        load_file(path)
    torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)


def _try_answer(context: RunContext, trainer: Any, renderer: Renderer, rows: Sequence[RenderedRow]) -> str:
    """Render the prompt of the first row as a server would and go on from it, a few likeliest tokens."""
    prompt = prompt_to_try(context, renderer, longest=max(len(row.input_ids) for row in rows))
    stops = set(renderer.template.stop_token_ids)
    answer = likeliest_answer(trainer.model, prompt, most_tokens=_ANSWER_TOKENS, stops=stops)
    return str(renderer.tokenizer.decode(answer, skip_special_tokens=True))
