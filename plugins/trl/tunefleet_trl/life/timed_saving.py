"""Checkpoints by time, beside those by steps: slow steps are lost as easily as many."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from tunefleet_core.backend import RunContext
from tunefleet_trl.processes import agreed

__all__ = ["TimedSaving"]


class TimedSaving(TrainerCallback):
    """Asks for a checkpoint once so much time has passed since the last one. A save leaves no trace."""

    def __init__(self, context: RunContext, minutes: float) -> None:
        self._context = context
        self._seconds = minutes * 60
        self._saved = time.monotonic()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._saved = time.monotonic()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        is_due = time.monotonic() - self._saved >= self._seconds
        if agreed(self._context.order, is_due) and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._saved = time.monotonic()
