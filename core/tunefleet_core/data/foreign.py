"""Files and rows that other trainers take and this one does not: named, with the command that turns them.

Nothing is turned in silence: what a field of another form means is for its owner to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

__all__ = ["ForeignRows", "file_hint", "foreign_rows"]

_SHAREGPT = (
    'jq -c \'{messages: [.conversations[] | {role: ({human: "user", gpt: "assistant"}[.from] // .from), '
    "content: .value}]}' OLD > rows.jsonl"
)
_ALPACA = (
    'jq -c \'{prompt: ([.instruction, .input // ""] | map(select(. != "")) | join("\\n\\n")), '
    "completion: .output}' OLD > rows.jsonl"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRows:
    """What a row of another form is.

    Attributes:
        what: What it is called.
        hint: How to turn it, an imperative with a command.
    """

    what: str
    hint: str


def foreign_rows(value: Mapping[str, object]) -> ForeignRows | None:
    """Return what a row of another trainer is; None if it is none that is known."""
    turns = value.get("conversations")
    if isinstance(turns, list) and turns:
        first = cast("list[object]", turns)[0]
        if isinstance(first, dict) and "from" in first:
            return ForeignRows(what="a conversation of ShareGPT", hint=f"Turn the file: {_SHAREGPT}")
        return ForeignRows(
            what="a conversation under another name",
            hint="Turn the file: jq -c '{messages: .conversations}' OLD > rows.jsonl",
        )
    if "instruction" in value and "output" in value:
        return ForeignRows(what="an instruction of Alpaca", hint=f"Turn the file: {_ALPACA}")
    if "prompt" in value and "response" in value:
        return ForeignRows(
            what="a prompt with its response",
            hint="Turn the file: jq -c '{prompt, completion: .response}' OLD > rows.jsonl",
        )
    return None


def file_hint(text: str, shape: str) -> str:
    """Return what to do about a line that is no object: what the file looks like, and how to turn it."""
    start = text.strip()
    if start.startswith("["):
        return f"This looks like one JSON array for the whole file: jq -c '.[]' OLD > rows.jsonl. {shape}"
    if start == "{":
        return f"This looks like JSON over several lines: jq -c . OLD > rows.jsonl. {shape}"
    if "," in start and not start.startswith(("{", '"{')):
        return f"This looks like a table (CSV). {shape}"
    return shape
