"""What the curves of a run say, as numbers: where they begin, end, turn and part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median

from tunefleet_core.run_health.history import RunHistory

__all__ = ["Curves"]

_LEAST_STEPS = 6
_LEARNED_NOTHING = 0.98
_RISEN, _RISEN_AT_LEAST = 1.05, 0.02
_PARTED, _PARTED_AT_LEAST = 1.5, 0.3
_ONE_PASS = 1.0
_STILL_FALLING, _FAR_FROM_LEARNED = 0.05, 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """The curves of a run; medians, so that single steps do not decide.

    Attributes:
        steps: Steps with a training loss.
        begin: Training loss at the beginning.
        middle: In the middle third.
        end: In the last third.
        last: At the very end.
        best_step: Step of the lowest validation loss; 0: there was none.
        best: The lowest validation loss.
        validation_end: The newest validation loss.
        validation_end_step: Its step.
        first_gap: First validation loss over the training loss around it.
        first_difference: The same, less it.
        first_epoch: Epochs done by then.
    """

    steps: int
    begin: float = 0.0
    middle: float = 0.0
    end: float = 0.0
    last: float = 0.0
    best_step: int = 0
    best: float = 0.0
    validation_end: float = 0.0
    validation_end_step: int = 0
    first_gap: float = 0.0
    first_difference: float = 0.0
    first_epoch: float = 0.0

    @classmethod
    def of(cls, history: RunHistory) -> Curves:
        """Measure the curves of a history."""
        values = [loss for _, loss in history.losses]
        if len(values) < _LEAST_STEPS:
            return cls(steps=len(values))
        third, edge = len(values) // 3, max(2, len(values) // 10)
        training = cls(
            steps=len(values),
            begin=median(values[:edge]),
            middle=median(values[third : 2 * third]),
            end=median(values[-third:]),
            last=median(values[-edge:]),
        )
        return _with_validation(training, history)

    @property
    def says_nothing(self) -> bool:
        """Whether there are too few steps."""
        return self.steps < _LEAST_STEPS

    @property
    def learned_nothing(self) -> bool:
        """Whether the training loss did not fall."""
        return self.last > _LEARNED_NOTHING * self.begin

    @property
    def validation_has_risen(self) -> bool:
        """Whether validation was clearly better before, while training went on getting better."""
        rise = self.validation_end - self.best
        is_risen = rise > max((_RISEN - 1) * self.best, _RISEN_AT_LEAST)
        return bool(self.best_step) and self.best_step < self.validation_end_step and is_risen

    @property
    def parted_at_once(self) -> bool:
        """Whether validation stood far above training before anything could be learned by heart."""
        is_apart = self.first_gap > _PARTED and self.first_difference > _PARTED_AT_LEAST
        return is_apart and self.first_epoch <= _ONE_PASS

    @property
    def is_still_falling(self) -> bool:
        """Whether the training loss was still on its way down, far from the bottom."""
        is_falling = self.middle - self.end > _STILL_FALLING * self.begin
        return is_falling and self.end > _FAR_FROM_LEARNED * self.begin


def _with_validation(curves: Curves, history: RunHistory) -> Curves:
    if not history.validation_losses:
        return curves
    best_step, best = min(history.validation_losses, key=lambda item: item[1])
    end_step, end = history.validation_losses[-1]
    first_step, first = history.validation_losses[0]
    around = [loss for step, loss in history.losses if abs(step - first_step) <= 1]
    near = median(around) if around else first
    return replace(
        curves,
        best_step=best_step,
        best=best,
        validation_end=end,
        validation_end_step=end_step,
        first_gap=first / near if near > 0 else 1.0,
        first_difference=first - near,
        first_epoch=history.epochs.get(first_step, 0.0),
    )
