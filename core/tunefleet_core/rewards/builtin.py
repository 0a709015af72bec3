"""The rewards that every backend has: what can be told from the text alone, without a second model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import cast

from tunefleet_core.rewards.code import CODE
from tunefleet_core.rewards.json_schema import JSON_SCHEMA
from tunefleet_core.rewards.judge import JUDGE
from tunefleet_core.rewards.model import MODEL_REWARD
from tunefleet_core.rewards.reward import Reward, Scorer

__all__ = ["REWARDS"]

_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_MARKED = re.compile(r"####\s*(.+)")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?")
_LONGEST_NUMBER = 40
"""Digits and signs of the longest number that is read; more is noise."""


def _exact_match(options: Mapping[str, object]) -> Scorer:
    field = _word(options, "field", "answer")
    ignores_case = _flag(options, "ignore_case")

    def same(row: Mapping[str, object], answer: str) -> float:
        wanted, got = str(row[field]).strip(), answer.strip()
        return float(wanted.lower() == got.lower() if ignores_case else wanted == got)

    _only(options, "field", "ignore_case")
    return Scorer(score=_each(same), needs=(field,))


def _regex(options: Mapping[str, object]) -> Scorer:
    _only(options, "pattern")
    pattern = _word(options, "pattern", "")
    if not pattern:
        raise ValueError("pattern is missing")
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ValueError(f"pattern is no regular expression: {error}") from error
    return Scorer(score=_each(lambda row, answer: float(compiled.search(answer) is not None)))


def _json_valid(options: Mapping[str, object]) -> Scorer:
    _only(options, "required")
    required = options.get("required", [])
    given = cast("list[object]", required) if isinstance(required, list) else [None]
    keys = [key for key in given if isinstance(key, str)]
    if len(keys) < len(given):
        raise ValueError("required must be a list of keys")

    def valid(row: Mapping[str, object], answer: str) -> float:
        """Half for JSON, the rest by the keys that are there; all of it where none is required."""
        try:
            value: object = json.loads(answer)
        except (ValueError, RecursionError):
            return 0.0
        if not keys:
            return 1.0
        found = sum(key in value for key in keys) if isinstance(value, dict) else 0
        return 0.5 + 0.5 * found / len(keys)

    return Scorer(score=_each(valid))


def _math_answer(options: Mapping[str, object]) -> Scorer:
    _only(options, "field")
    field = _word(options, "field", "answer")

    def right(row: Mapping[str, object], answer: str) -> float:
        wanted = _final_number(str(row[field]))
        return float(wanted is not None and wanted == _final_number(answer))

    return Scorer(score=_each(right), needs=(field,))


def _final_number(text: str) -> Fraction | None:
    """Return the number that a solution ends with: in a box, after `####`, else the last one."""
    for pattern in (_BOXED, _MARKED):
        if found := pattern.findall(text):
            text = found[-1]
            break
    numbers = [item for item in _NUMBER.findall(text) if len(item) <= _LONGEST_NUMBER]
    if not numbers:
        return None
    above, _, below = numbers[-1].replace(",", "").replace(" ", "").partition("/")
    try:
        return Fraction(above) / Fraction(below or 1)
    except (ValueError, ZeroDivisionError):
        return None


def _each(
    one: Callable[[Mapping[str, object], str], float],
) -> Callable[[Sequence[Mapping[str, object]], Sequence[str]], Sequence[float]]:
    return lambda rows, answers: [one(row, answer) for row, answer in zip(rows, answers, strict=True)]


def _word(options: Mapping[str, object], name: str, default: str) -> str:
    value = options.get(name, default)
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text")
    return value


def _flag(options: Mapping[str, object], name: str) -> bool:
    value = options.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false")
    return value


def _only(options: Mapping[str, object], *known: str) -> None:
    for name in options:
        if name not in known:
            raise ValueError(f"{name} is no option; it takes {', '.join(known)}")


REWARDS = (
    Reward(
        name="exact_match",
        summary="1 if the answer is the text of a field of the row (`field`, default `answer`), else 0.",
        make=_exact_match,
    ),
    Reward(name="regex", summary="1 if `pattern` is found in the answer, else 0.", make=_regex),
    Reward(
        name="json_valid",
        summary="1 if the answer is JSON; with `required` keys, half of it for those that are there.",
        make=_json_valid,
    ),
    Reward(
        name="math_answer",
        summary="1 if the answer ends with the number of a field of the row (`field`, default `answer`).",
        make=_math_answer,
    ),
    JSON_SCHEMA,
    JUDGE,
    CODE,
    MODEL_REWARD,
)
"""Ours. Those of plugins come beside them."""
