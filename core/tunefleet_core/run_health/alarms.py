"""Alarms that are told once a run: routers that collapse, knowledge that is lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import cast

__all__ = ["CollapseWatch", "GeneralScore", "GeneralWatch", "score_general"]

_COLLAPSED = 0.8
_COLLAPSED_STEPS = 5
_POINT = 0.01
_SURE = 1.96  # the two-sided 5 % of a normal distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class CollapseWatch:
    """Whether one expert of a layer gets almost every token, for several steps in a row.

    Attributes:
        steps: Such steps in a row.
        is_told: Whether it was told already.
    """

    steps: int = 0
    is_told: bool = False

    def after(self, load: float, even: float) -> tuple[CollapseWatch, bool]:
        """Return what the next step is held against, and whether it is to be told now.

        Args:
            load: Largest share of tokens that one expert of a layer got.
            even: That share if all got the same; the distance from there to 1 is what counts.
        """
        is_collapsed = even < 1 and (load - even) / (1 - even) >= _COLLAPSED
        steps = self.steps + 1 if is_collapsed else 0
        tells = steps >= _COLLAPSED_STEPS and not self.is_told
        return replace(self, steps=steps, is_told=self.is_told or tells), tells

    def to_json(self) -> dict[str, object]:
        """Return what a checkpoint keeps of it."""
        return {"steps": self.steps, "is_told": self.is_told}

    def resumed(self, kept: Mapping[str, object]) -> CollapseWatch:
        """Return it as a checkpoint kept it."""
        steps = kept.get("steps")
        return replace(
            self, steps=steps if isinstance(steps, int) else 0, is_told=kept.get("is_told") is True
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralScore:
    """How a model does on the general rows, held against how it did before training.

    Attributes:
        before: Mean over the rows of the share of tokens that were foretold before.
        now: The same now.
        standard_error: Of the mean difference, by rows, which are the same ones.
    """

    before: float
    now: float
    standard_error: float

    @property
    def is_forgetting(self) -> bool:
        """Whether it lost more than a point, and more than chance explains."""
        drop = self.before - self.now
        return drop > _POINT and drop > _SURE * self.standard_error


def score_general(before: Sequence[float], now: Sequence[float]) -> GeneralScore:
    """Compare two scorings of the same rows, row by row.

    Args:
        before: Of each row the share of tokens that was foretold before training, 0 to 1.
        now: The same now, in the same order.
    """
    changes = [one - other for one, other in zip(now, before, strict=True)]
    error = stdev(changes) / math.sqrt(len(changes)) if len(changes) > 1 else math.inf
    return GeneralScore(before=fmean(before), now=fmean(now), standard_error=error)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralWatch:
    """What general rows scored before training, and whether their loss was told."""

    before: tuple[float, ...] = ()
    is_told: bool = False

    def after(self, now: Sequence[float]) -> tuple[GeneralWatch, GeneralScore, bool]:
        """Return what the next scoring is held against, this one, and whether it is to be told now."""
        if not self.before:
            began = replace(self, before=tuple(now))
            return began, score_general(now, now), False
        score = score_general(self.before, now)
        tells = score.is_forgetting and not self.is_told
        return replace(self, is_told=self.is_told or tells), score, tells

    def to_json(self) -> dict[str, object]:
        """Return what a checkpoint keeps of it."""
        return {"before": list(self.before), "is_told": self.is_told}

    def resumed(self, kept: Mapping[str, object]) -> GeneralWatch:
        """Return it as a checkpoint kept it."""
        before = kept.get("before")
        values = cast("Sequence[float]", before) if isinstance(before, list) else ()
        return replace(self, before=tuple(values), is_told=kept.get("is_told") is True)
