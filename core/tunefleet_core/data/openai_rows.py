"""Rows in the forms of OpenAI's fine-tuning API, where these are other ones than the Hub's.

Supervised rows are the same. Preferences are `input`, `preferred_output` and `non_preferred_output`;
rows for reinforcement are `messages` that end with a question, beside the fields that a grader reads.
(OpenAI, guides "Direct preference optimization" and "Reinforcement fine-tuning".)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

__all__ = ["as_pair", "as_prompt", "is_question"]

_PAIR = ("input", "preferred_output", "non_preferred_output")
_LEFT_OUT = ("messages", "parallel_tool_calls")


def as_pair(value: Mapping[str, object]) -> Mapping[str, object]:
    """Return a row of preferences under the names of the Hub; any other row as it is."""
    asked = value.get("input")
    if not all(key in value for key in _PAIR) or not isinstance(asked, dict):
        return value
    question = cast("dict[str, Any]", asked)
    tools = {"tools": question["tools"]} if question.get("tools") else {}
    return {
        "prompt": question.get("messages"),
        "chosen": value["preferred_output"],
        "rejected": value["non_preferred_output"],
        **tools,
    }


def as_prompt(value: Mapping[str, object]) -> Mapping[str, object]:
    """Return a row that ends with a question under the name of the Hub, `prompt`; any other row as it is."""
    if "prompt" in value or _roles(value)[-1:] in ([], ["assistant"]):
        return value
    rest = {key: item for key, item in value.items() if key not in _LEFT_OUT}
    return {"prompt": value["messages"], **rest}


def is_question(value: Mapping[str, object]) -> bool:
    """Whether a row has `messages` in which nobody answers."""
    roles = _roles(value)
    return roles[-1:] == ["user"] and "assistant" not in roles


def _roles(value: Mapping[str, object]) -> list[object]:
    """Return who speaks in the `messages` of a row, where that is a list."""
    messages = value.get("messages")
    turns = cast("list[object]", messages) if isinstance(messages, list) else []
    return [cast("dict[str, object]", turn).get("role") for turn in turns if isinstance(turn, dict)]
