"""Score general rows while a run trains: does it lose what the model could do before?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from tunefleet.job.v1.event_pb2 import Forgetting, JobEvent, Metrics
from tunefleet_core.backend import RunContext
from tunefleet_core.rendering import RenderedRow
from tunefleet_core.run_life import RunLife

__all__ = ["GeneralRows"]

_LOOKS = 10


class GeneralRows(TrainerCallback):
    """Scores before the first step and as often as a run validates. Nothing of it is learned."""

    def __init__(self, context: RunContext, trainer: Any, life: RunLife, rows: Sequence[RenderedRow]) -> None:
        self._context = context
        self._trainer = trainer
        self._life = life
        self._rows = rows
        self._every = context.order.resolved_spec.spec.train.validate_every_steps

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._every = self._every or max(1, state.max_steps // _LOOKS)
        if not self._life.general.before:
            self._look(state)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self._every == 0:
            self._look(state)

    def _look(self, state: TrainerState) -> None:
        begun = time.monotonic()
        now = self._scores()
        self._life.general, score, tells = self._life.general.after(now)
        metrics = Metrics(step=state.global_step, total_steps=state.max_steps)
        metrics.extra["general/token_accuracy"] = score.now
        self._context.metrics(metrics)
        if tells:
            self._context.tell(
                JobEvent(
                    forgetting=Forgetting(
                        step=state.global_step,
                        before=score.before,
                        now=score.now,
                        standard_error=score.standard_error,
                        rows=len(now),
                    )
                )
            )
        self._trainer.leave_aside(time.monotonic() - begun)

    def _scores(self) -> list[float]:
        """Return of each row the share of tokens with loss that the model foretells."""
        model = self._trainer.model
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                return [_foretold(model, row) for row in self._rows]
        finally:
            model.train(was_training)


def _foretold(model: Any, row: RenderedRow) -> float:
    ids = torch.tensor([row.input_ids], device=model.device)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    logits = logits[0, -ids.shape[1] : -1]  # learned embeddings before a prompt have answers of their own
    wanted = ids[0, 1:]
    counts = torch.tensor(row.mask[1:], dtype=torch.bool, device=ids.device)
    return float((logits.argmax(dim=-1) == wanted)[counts].float().mean())
