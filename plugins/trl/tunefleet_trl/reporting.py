"""Between the library's loop and a run: what a step reports, and where the run may stop.

Called by the library at every step. What a step means for the run is decided by its life.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState
from trl import SFTConfig

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.job.v1.event_pb2 import ExpertCollapse, JobEvent, LossSpike, Metrics, RowPlace, RunPhase
from tunefleet_core.backend import RunContext, RunStopped
from tunefleet_trl.memory import peak_memory_bytes
from tunefleet_trl.processes import agreed, count_of, summed

if TYPE_CHECKING:  # it makes one of these itself
    from tunefleet_trl.trainer import RunTraining

__all__ = ["RunReports"]

_METHOD_METRICS = (
    "rewards/",
    "logps/",
    "kl",
    "entropy",
    "reward",
    "frac_reward_zero_std",
    "completions/",
    "accuracy",
    "margin",
    "on_policy",
    "min_reward",
    "mean_reward",
    "max_reward",
    "nll_loss",
    "log_odds",
)
"""What names of the library's own metrics begin with that tell whether a method works."""


class RunReports(TrainerCallback):
    """Tells the run of every step, and ends it where that is wanted."""

    def __init__(self, context: RunContext, trainer: RunTraining) -> None:
        self._context = context
        self._trainer = trainer
        self._clock = self._begun = time.monotonic()
        self._tokens = 0

    def on_train_begin(
        self, args: SFTConfig, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trainer.resume_tokens()
        self._trainer.before_first_step(self._trainer)
        self._trainer.row_places.forget()  # what was tried is no step
        self._context.enter(RunPhase.RUN_PHASE_WORKING)
        self._begun = time.monotonic()
        self._tokens = self._trainer.count_tokens()
        self._clock = time.monotonic()

    def on_substep_end(
        self, args: SFTConfig, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._stop_if_cancelled()

    def on_step_end(
        self, args: SFTConfig, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._stop_if_cancelled()
        order = self._context.order
        if agreed(order, self._trainer.save_is_asked()):
            control.should_save = True
        most = order.resolved_spec.spec.train.optim.max_seconds
        if most and agreed(order, time.monotonic() - self._begun > most):
            control.should_training_stop = True

    def on_save(self, args: SFTConfig, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._stop_if_cancelled()
        if self._trainer.is_to_save():
            raise RunStopped(f"saved at step {state.global_step}")

    def on_prediction_step(
        self, args: SFTConfig, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._stop_if_cancelled()

    def on_log(
        self,
        args: SFTConfig,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        if "loss" in logs:
            self._report_step(state, logs)
        elif "eval_loss" in logs:
            self._report_validation(state, logs)
        if state.log_history:
            state.log_history[-1]["tokens_so_far"] = self._trainer.count_tokens()

    def _report_step(self, state: TrainerState, logs: dict[str, float]) -> None:
        loss = logs["loss"]
        places = self._trainer.row_places
        counts = summed(self._context.order, places.counts())
        self._judge(state.global_step, loss, logs.get("grad_norm", 0.0))
        now, tokens = time.monotonic(), self._trainer.count_tokens()
        metrics = _metrics(state)
        metrics.loss = loss
        metrics.learning_rate = logs.get("learning_rate", 0.0)
        metrics.grad_norm = logs.get("grad_norm", 0.0)
        metrics.tokens = tokens
        seconds = now - self._clock - self._trainer.take_aside()
        metrics.tokens_per_second = (tokens - self._tokens) / max(seconds, 1e-9)
        processes = count_of(self._context.order)  # the tokens are those of all, the peak is of one device
        rows = (
            self._trainer.args.train_batch_size * self._trainer.args.gradient_accumulation_steps * processes
        )
        pace = metrics.tokens_per_second / processes
        used = self._trainer.utilisation(pace, (tokens - self._tokens) / rows)
        if used is not None:
            metrics.mfu = used
        metrics.peak_memory_bytes = peak_memory_bytes()
        for source, count in zip(places.sources, counts, strict=bool(counts)):
            metrics.extra[f"rows/{source}"] = count
        if "mean_token_accuracy" in logs:
            metrics.extra["token_accuracy"] = logs["mean_token_accuracy"]
        if "aux_loss" in logs:  # of the routers; the library adds it to the loss with the base's own factor
            metrics.extra["aux_loss"] = logs["aux_loss"]
        for name, value in _of_method(logs):
            metrics.extra[name] = value
        load = self._trainer.expert_load.take()
        if load is not None:
            metrics.extra["expert_load"] = load
            self._judge_routing(state.global_step, load)
        self._clock, self._tokens = now, tokens
        self._context.metrics(metrics)

    def _judge(self, step: int, loss: float, grad_norm: float) -> None:
        life = self._trainer.life
        usual = life.judge(step, loss, grad_norm) if life is not None else None
        if usual is not None:
            rows = [RowPlace(path=path, line=line) for path, line in self._trainer.row_places.places()]
            self._context.tell(JobEvent(loss_spike=LossSpike(step=step, loss=loss, usual=usual, rows=rows)))
        self._trainer.row_places.forget()

    def _judge_routing(self, step: int, load: float) -> None:
        life, even = self._trainer.life, self._trainer.expert_load.even
        if life is None:
            return
        life.collapse, tells = life.collapse.after(load, even)
        if tells:
            self._context.tell(JobEvent(expert_collapse=ExpertCollapse(step=step, load=load, even=even)))

    def _report_validation(self, state: TrainerState, logs: dict[str, float]) -> None:
        metrics = _metrics(state)
        metrics.validation_loss = logs["eval_loss"]
        for name, value in _of_method({name.removeprefix("eval_"): value for name, value in logs.items()}):
            metrics.extra[f"validation/{name}"] = value
        self._context.metrics(metrics)
        self._clock = time.monotonic()  # the time of a validation is not the time of a step

    def _stop_if_cancelled(self) -> None:
        if self._context.stop_requested() == StopMode.STOP_MODE_CANCEL:
            raise RunStopped("cancelled")


def _metrics(state: TrainerState) -> Metrics:
    return Metrics(step=state.global_step, total_steps=state.max_steps, epoch=state.epoch or 0.0)


def _of_method(logs: dict[str, float]) -> Iterator[tuple[str, float]]:
    """Yield the library's own figures of a method: rewards, margins, distance from the base."""
    for name, value in logs.items():
        if name.startswith(_METHOD_METRICS) and isinstance(value, int | float) and math.isfinite(value):
            yield name, value
    # With labels a pass may hold answers of one kind only; then the library knows no margin.
    good, bad = logs.get("rewards/chosen"), logs.get("rewards/rejected")
    if good is not None and bad is not None:
        yield "rewards/margins", good - bad
