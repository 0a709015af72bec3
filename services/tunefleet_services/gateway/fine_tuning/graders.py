"""Graders of OpenAI as rewards of ours, and back.

`string_check` compares an answer with a field of the row and is `exact_match`; every reward of
ours, with its options, is asked for by its own name:
`{"type": "multi", "graders": {"right": {"type": "reward", "name": "math_answer"}, ...}}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tunefleet.job.v1.spec_pb2 import Reward
from tunefleet_core.errors import TunefleetError

__all__ = ["grader_of", "rewards_of"]

_ANSWER = re.compile(r"\{\{\s*sample\.output_text\s*\}\}")
_FIELD = re.compile(r"\{\{\s*item\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_HINT = (
    'Send {"type": "string_check", "operation": "eq", "input": "{{sample.output_text}}", '
    '"reference": "{{item.answer}}"}, or one of the rewards: {"type": "reward", "name": "math_answer"}.'
)


def rewards_of(grader: object, field: str) -> Sequence[Reward]:
    """Return what a grader scores by.

    Raises:
        TunefleetError: FIELD_INVALID for one that none of our rewards does the work of.
    """
    if not isinstance(grader, dict):
        raise TunefleetError.field(field, "is missing", hint=_HINT)
    given = cast("dict[str, Any]", grader)
    match given.get("type"):
        case "string_check":
            return [_string_check(given, field)]
        case "reward":
            return [_reward(given, field)]
        case "multi":
            graders = given.get("graders")
            if given.get("calculate_output") or not isinstance(graders, dict) or not graders:
                raise TunefleetError.field(
                    field, "must hold graders by name; their scores are summed by `weight`", hint=_HINT
                )
            named = cast("dict[str, object]", graders)
            return [one for name, item in named.items() for one in rewards_of(item, f"{field}.{name}")]
        case kind:
            raise TunefleetError.field(field, f"'{kind}' is no grader that is known here", hint=_HINT)


def grader_of(rewards: Sequence[Reward]) -> Mapping[str, object] | None:
    """Return rewards as a grader of OpenAI's own types; None where none of these says it."""
    if len(rewards) != 1 or rewards[0].name != "exact_match" or rewards[0].HasField("weight"):
        return None
    options = rewards[0].options
    if "ignore_case" in options:
        return None
    field = options.fields["field"].string_value if "field" in options else "answer"
    return {
        "type": "string_check",
        "name": "exact_match",
        "operation": "eq",
        "input": "{{sample.output_text}}",
        "reference": f"{{{{item.{field}}}}}",
    }


def _string_check(given: Mapping[str, Any], field: str) -> Reward:
    reference = _FIELD.fullmatch(str(given.get("reference", "")))
    is_answer = _ANSWER.fullmatch(str(given.get("input", "")))
    if given.get("operation") != "eq" or not reference or not is_answer:
        raise TunefleetError.field(
            field, "compares an answer with a field of its row, by the operation `eq`, alone", hint=_HINT
        )
    reward = Reward(name="exact_match")
    reward.options.update({"field": reference[1]})
    return reward


def _reward(given: Mapping[str, Any], field: str) -> Reward:
    unknown = set(given) - {"type", "name", "weight", "options"}
    options: object = given.get("options") or {}
    weight: object = given.get("weight")
    if unknown or not isinstance(given.get("name"), str) or not isinstance(options, dict):
        raise TunefleetError.field(field, "takes `name`, `weight` and `options` alone", hint=_HINT)
    reward = Reward(name=given["name"])
    if options:
        reward.options.update(cast("dict[str, Any]", options))
    if weight is not None:
        if not isinstance(weight, (int, float)) or isinstance(weight, bool):
            raise TunefleetError.field(f"{field}.weight", "must be a number")
        reward.weight = float(weight)
    return reward
