"""The loop of a supervised run: a function of weights, optimiser and step alone.

mlx-lm's own loop restores weights only. Here a step draws its random numbers from seed and
step, takes its rows and its rate from the step's number, and everything else is in the
checkpoint: a run that goes on ends in the weights it would have ended in.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from tunefleet.job.v1.spec_pb2 import TrainSpec
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rendering import RenderedRow, first_line
from tunefleet_mlx.optimiser import build_optimizer, clip, restore_state, state_arrays
from tunefleet_mlx.schedule import Plan, learning_rate

__all__ = ["StepResult", "Trainer"]

STATE, OPTIMIZER, WEIGHTS = "trainer_state.json", "optimizer.safetensors", "weights.safetensors"
_IGNORED = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """Figures of an optimiser step; `loss` is the mean over its trained tokens."""

    loss: float
    grad_norm: float
    learning_rate: float
    token_accuracy: float


@dataclass(slots=True)
class _Batch:
    """Rows filled up on the right, where no causal model looks: shapes (rows, longest)."""

    ids: Any
    labels: Any
    tokens: int
    trained: int


class Trainer:
    """Trains what of a model is not frozen.

    Args:
        model: A model of mlx-lm, frozen but for what is trained.
        train: The spec, its defaults filled in.
        plan: The steps of the run.
        rows: The training rows.
        dtype: Number type that weights are computed in; they are kept in float32.

    Attributes:
        rate_scale: Factor of the learning rate; less than 1 once a run was rolled back.
        max_grad_norm: What gradients are clipped to; 0: unbounded.
    """

    def __init__(
        self, model: Any, *, train: TrainSpec, plan: Plan, rows: Sequence[RenderedRow], dtype: str
    ) -> None:
        self.model = model
        self.plan = plan
        self.step = 0
        self.tokens = 0
        self.rate_scale = 1.0
        self.max_grad_norm = train.optim.max_grad_norm if train.optim.HasField("max_grad_norm") else 1.0
        self._train = train
        self._rows = rows
        self._dtype = getattr(mx, dtype)
        self._is_full = not train.HasField("adapter")
        # A step of 1e-5 on a weight of 0.02 is a tenth of what bfloat16 can tell apart.
        self.weights: Any = tree_map(lambda value: value.astype(mx.float32), model.trainable_parameters())
        self.optimizer = build_optimizer(self.weights, weight_decay=train.optim.weight_decay)

    @property
    def is_done(self) -> bool:
        """Whether every step was taken."""
        return self.step >= self.plan.total_steps

    @property
    def epoch(self) -> float:
        """Passes over the rows so far."""
        return self.step / self.plan.steps_per_epoch

    def row_lengths(self) -> list[int]:
        """Return the tokens of each training row."""
        return [len(row.input_ids) for row in self._rows]

    def take_step(self) -> StepResult:
        """Take one optimiser step."""
        rate = learning_rate(self._train, self.step, self.plan.total_steps) * self.rate_scale
        batches = [self._batch(rows) for rows in self.plan.batches(self.step)]
        result = self._optimise(batches, rate)
        self.step += 1
        self.tokens += sum(batch.tokens for batch in batches)
        return result

    def try_step(self, rows: Sequence[int]) -> StepResult:
        """Take a step that moves nothing on some rows: its rate is 0, its optimiser thrown away."""
        kept = self.optimizer, self.weights
        self.optimizer = build_optimizer(self.weights, weight_decay=self._train.optim.weight_decay)
        try:
            return self._optimise([self._batch(rows)], 0.0)
        finally:
            self.optimizer, self.weights = kept
            self.model.update(self._computed(self.weights))

    def places(self, step: int) -> list[tuple[str, int]]:
        """Return file and line of the rows of a step, counted from 0, each once."""
        rows = (self._rows[row] for batch in self.plan.batches(step) for row in batch)
        return list(dict.fromkeys((row.path, row.line) for row in rows if row.line))

    def validate(self, rows: Sequence[RenderedRow], *, before_batch: Any) -> tuple[float, float]:
        """Return loss and token accuracy of rows: the mean over batches, each weighted by its rows."""
        self.model.eval()
        loss = accuracy = 0.0
        micro = self.plan.micro
        for first in range(0, len(rows), micro):
            before_batch()
            some = rows[first : first + micro]
            batch = _filled(some)
            summed, right = _losses(self.model, batch.ids, batch.labels)
            trained = max(1, batch.trained)
            loss += float(summed.item()) / trained * len(some)
            accuracy += float(right.item()) / trained * len(some)
        self.model.train()
        return loss / len(rows), accuracy / len(rows)

    def write_weights(self, folder: Path) -> None:
        """Write what is trained into an existing folder."""
        mx.save_safetensors(str(folder / WEIGHTS), dict(tree_flatten(self.weights)))

    def load_weights(self, folder: Path) -> None:
        """Take the weights that `write_weights` wrote.

        Raises:
            ValueError: they are not those that are trained.
        """
        arrays = dict(mx.load(str(folder / WEIGHTS)))
        own = {name: value.shape for name, value in tree_flatten(self.weights)}
        if own != {name: value.shape for name, value in arrays.items()}:
            raise ValueError("its weights are not those that are trained")
        # In the order they had: the norm of all gradients is a sum, and sums have an order.
        self.weights = tree_unflatten([(name, arrays[name]) for name in own])
        self.model.update(self._computed(self.weights))

    def write_state(self, folder: Path) -> None:
        """Write what resuming needs beside the adapter into an existing folder."""
        mx.save_safetensors(str(folder / OPTIMIZER), state_arrays(self.optimizer))
        self.write_weights(folder)
        state = {"step": self.step, "tokens": self.tokens}
        (folder / STATE).write_text(json.dumps(state) + "\n", encoding="utf-8")

    def resume(self, folder: Path) -> None:
        """Go on where `write_state` left off.

        Raises:
            TunefleetError: BACKEND_FAILED if the checkpoint is damaged or of another run.
        """
        try:
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
            self.load_weights(folder)
            restore_state(self.optimizer, dict(mx.load(str(folder / OPTIMIZER))))
            self.step, self.tokens = int(state["step"]), int(state["tokens"])
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise TunefleetError(
                Reason.BACKEND_FAILED,
                f"The checkpoint '{folder}' cannot be read: {first_line(error)}.",
                hint="Start the job again from an older checkpoint, or from the beginning.",
                metadata={"path": str(folder)},
            ) from error

    def let_go(self) -> None:
        """Drop weights and optimiser: their memory is needed for something else."""
        self.model = self.weights = self.optimizer = None
        gc.collect()
        mx.clear_cache()

    def _optimise(self, batches: Sequence[_Batch], rate: float) -> StepResult:
        self.model.train()
        trained = sum(batch.trained for batch in batches)
        # Dropout draws from seed and step, so there is no state of a generator to keep.
        mx.random.seed(self.plan.seed << 32 | self.step)
        gradients: Any = None
        loss = right = mx.array(0.0)
        for batch in batches:
            part = partial(self._share, batch=batch, trained=trained)
            (share, hits), found = mx.value_and_grad(part)(self.weights)
            loss, right = loss + share, right + hits
            gradients = found if gradients is None else tree_map(mx.add, gradients, found)
            if len(batches) > 1:  # or the graphs of all would be in memory at once
                mx.eval(loss, right, gradients)
        gradients, norm = clip(gradients, self.max_grad_norm)
        self.optimizer.learning_rate = rate
        self.weights = self.optimizer.apply_gradients(gradients, self.weights)
        mx.eval(self.weights, self.optimizer.state, norm, loss, right)
        self.model.update(self._computed(self.weights))
        return StepResult(
            loss=float(loss.item()),
            grad_norm=float(norm.item()),
            learning_rate=rate,
            token_accuracy=float(right.item()) / max(1, trained),
        )

    def _share(self, weights: Any, *, batch: _Batch, trained: int) -> tuple[Any, Any]:
        """Return what a batch adds to the mean loss of a step, and how many tokens it has right."""
        self.model.update(self._computed(weights))
        loss, right = _losses(self.model, batch.ids, batch.labels)
        return loss / trained, right

    def _computed(self, weights: Any) -> Any:
        """Return weights in the number type they are computed in; an adapter's stay in float32."""
        if not self._is_full or self._dtype == mx.float32:
            return weights
        return tree_map(lambda value: value.astype(self._dtype), weights)

    def _batch(self, rows: Sequence[int]) -> _Batch:
        return _filled([self._rows[row] for row in rows])


def _filled(rows: Sequence[RenderedRow]) -> _Batch:
    longest = max(len(row.input_ids) for row in rows)
    fills = [longest - len(row.input_ids) for row in rows]
    ids = [[*row.input_ids, *[0] * fill] for row, fill in zip(rows, fills, strict=True)]
    labels = [[*row.labels(), *[_IGNORED] * fill] for row, fill in zip(rows, fills, strict=True)]
    tokens = sum(len(row.input_ids) for row in rows)
    trained = sum(label != _IGNORED for row in labels for label in row)
    return _Batch(mx.array(ids), mx.array(labels), tokens, trained)


def _losses(model: Any, ids: Any, labels: Any) -> tuple[Any, Any]:
    """Return the summed loss of the trained tokens, and how many of them the model has right."""
    logits = model(ids)[:, :-1].astype(mx.float32)
    targets = labels[:, 1:]
    is_trained = targets != _IGNORED
    wanted = mx.where(is_trained, targets, 0)
    losses = nn.losses.cross_entropy(logits, wanted) * is_trained
    right = (mx.argmax(logits, axis=-1) == wanted) * is_trained
    return losses.sum(), mx.stop_gradient(right.sum())
