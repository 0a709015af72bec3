"""Score answers against the right ones, each score with a 95 % interval. Pure and deterministic."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from tunefleet.job.v1.state_pb2 import Score

__all__ = ["METRICS", "RowScore", "bootstrap_interval", "score_row", "scores", "wilson_interval"]

METRICS = ("exact_match", "json_valid", "f1")

_Z = 1.959963984540054
"""Two-sided 95 % point of the normal distribution."""
_RESAMPLES = 1000
_WORD = re.compile(r"\w+|[^\w\s]")
_MISSING = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class RowScore:
    """Scores of one answer, 0 to 1."""

    exact_match: float
    json_valid: float
    f1: float


def score_row(right: str, given: str) -> RowScore:
    """Score one answer.

    exact_match: equal up to white space at the edges. json_valid: the answer is JSON, and
    an object or list where the right answer is one. f1: over the fields of flat JSON
    objects if both are, else over words and punctuation marks.
    """
    right_value, given_value = _parsed(right), _parsed(given)
    return RowScore(
        exact_match=float(right.strip() == given.strip()),
        json_valid=float(_is_valid(right_value, given_value)),
        f1=_f1(_items(right, right_value, given_value), _items(given, given_value, right_value)),
    )


def scores(rows: Sequence[RowScore], metrics: Sequence[str] = ()) -> list[Score]:
    """Return the mean of each metric with its interval: Wilson for shares, bootstrap for f1."""
    result: list[Score] = []
    for metric in metrics or METRICS:
        values = [getattr(row, metric) for row in rows]
        mean = sum(values) / len(values)
        interval = bootstrap_interval if metric == "f1" else wilson_interval
        low, high = interval(values)
        result.append(Score(metric=metric, value=mean, low=low, high=high, rows=len(values)))
    return result


def wilson_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927): right at 0 and 1 too, and with few rows."""
    count = len(values)
    share = sum(values) / count
    spread = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    centre, scale = share + _Z**2 / (2 * count), 1 + _Z**2 / count
    # Rounding may put an end a hair beyond the value it belongs to.
    return max(0.0, min(share, (centre - spread) / scale)), min(1.0, max(share, (centre + spread) / scale))


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % percentile interval of a mean over 1000 resamples, the same ones every time."""
    source = random.Random(0)
    means = sorted(math.fsum(source.choices(values, k=len(values))) / len(values) for _ in range(_RESAMPLES))
    return means[round(0.025 * _RESAMPLES)], means[round(0.975 * _RESAMPLES) - 1]


def _parsed(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return _MISSING


def _no_constant(word: str) -> object:
    raise ValueError(f"{word} is no JSON value")


def _is_valid(right: object, given: object) -> bool:
    if given is _MISSING:
        return False
    wanted: type[object] = type(right)
    return type(given) is wanted if wanted in (dict, list) else True


def _items(text: str, value: object, other: object) -> Counter[object]:
    """Return what is compared of an answer: its fields if both answers are flat objects, else its words."""
    if _is_flat(value) and _is_flat(other):
        fields = cast("dict[str, object]", value)
        # As text, so that 1, 1.0 and true stay three values.
        return Counter((name, json.dumps(item)) for name, item in fields.items())
    return Counter(_WORD.findall(text))


def _is_flat(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    return not any(isinstance(item, dict | list) for item in cast("dict[str, object]", value).values())


def _f1(right: Counter[object], given: Counter[object]) -> float:
    total = right.total() + given.total()
    return 2 * (right & given).total() / total if total else 1.0
