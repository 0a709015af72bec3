"""Tell an odd loss from a lost run, step by step.

A spike is one step far above the steps around it: mostly a row of its batch. A run is lost
when its loss is no number, or stays far above where it began, or has come back to where it
began after it had halved: nothing that was learned is left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from statistics import median
from typing import cast

__all__ = ["LossWatch", "Verdict"]

_BEGINNING = 5
_WINDOW = 12
_LEAST_HISTORY = 10
_FAR_STEPS = 5
_FAR, _FAR_AT_LEAST = 2.0, 1.0
_HALVED = 0.5
_SPIKE_DEVIATIONS, _SPIKE_SHARE, _SPIKE_AT_LEAST = 8.0, 0.5, 0.3
_MAD_TO_DEVIATION = 1.4826  # of a normal distribution
_ACCEPTED_AFTER = 3


class Verdict(Enum):
    """What a step's loss says."""

    ORDINARY = "ordinary"
    SPIKE = "spike"
    DIVERGED = "diverged"


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWatch:
    """The losses that the next one is held against.

    Attributes:
        beginning: The first losses of the run.
        recent: The newest ordinary ones.
        lowest: The lowest median of a full window so far.
        far: Steps in a row far above the beginning.
        spikes: Spikes in a row.
        follows_trend: Whether more than a missing number is judged; losses of rewards have no level.
    """

    beginning: tuple[float, ...] = ()
    recent: tuple[float, ...] = ()
    lowest: float = math.inf
    far: int = 0
    spikes: int = 0
    follows_trend: bool = True

    @property
    def usual(self) -> float:
        """The median of the recent losses; infinity before the first."""
        return median(self.recent) if self.recent else math.inf

    def after(self, loss: float, grad_norm: float = 0.0) -> tuple[LossWatch, Verdict]:
        """Return what the next step is held against, and what this one says.

        Args:
            loss: Training loss of the step.
            grad_norm: Norm of its gradient before clipping; no number means that the weights are lost.
        """
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return self, Verdict.DIVERGED
        if not self.follows_trend:
            return self, Verdict.ORDINARY
        if len(self.beginning) < _BEGINNING:
            began = (*self.beginning, loss)
            return replace(self, beginning=began, recent=(*self.recent, loss)), Verdict.ORDINARY
        level = median(self.beginning)
        far = self.far + 1 if loss > max(_FAR * level, level + _FAR_AT_LEAST) else 0
        is_spike = len(self.recent) >= _LEAST_HISTORY and loss > self._highest_ordinary()
        spikes = self.spikes + 1 if is_spike else 0
        recent = self.recent
        if not is_spike or spikes >= _ACCEPTED_AFTER:  # a new level, not one odd batch after another
            recent = (*recent, loss)[-_WINDOW:]
        watch = replace(self, far=far, spikes=spikes, recent=recent)
        if len(recent) == _WINDOW:
            watch = replace(watch, lowest=min(self.lowest, median(recent)))
            if median(recent) >= level and watch.lowest <= _HALVED * level:
                return watch, Verdict.DIVERGED
        if far >= _FAR_STEPS:
            return watch, Verdict.DIVERGED
        return watch, Verdict.SPIKE if is_spike and spikes < _ACCEPTED_AFTER else Verdict.ORDINARY

    def to_json(self) -> dict[str, object]:
        """Return what a checkpoint keeps of it."""
        return {
            "beginning": list(self.beginning),
            "recent": list(self.recent),
            "lowest": self.lowest if math.isfinite(self.lowest) else None,
            "far": self.far,
            "spikes": self.spikes,
        }

    def resumed(self, kept: Mapping[str, object]) -> LossWatch:
        """Return it as a checkpoint kept it."""
        lowest = kept.get("lowest")
        return replace(
            self,
            beginning=_numbers(kept.get("beginning")),
            recent=_numbers(kept.get("recent")),
            lowest=float(lowest) if isinstance(lowest, int | float) else math.inf,
            far=_count(kept.get("far")),
            spikes=_count(kept.get("spikes")),
        )

    def _highest_ordinary(self) -> float:
        middle = median(self.recent)
        deviation = _MAD_TO_DEVIATION * median(abs(item - middle) for item in self.recent)
        return middle + max(_SPIKE_DEVIATIONS * deviation, _SPIKE_SHARE * middle, _SPIKE_AT_LEAST)


def _numbers(value: object) -> tuple[float, ...]:
    return tuple(float(item) for item in cast("Sequence[float]", value)) if isinstance(value, list) else ()


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
