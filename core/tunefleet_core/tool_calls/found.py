"""Which way of writing calls a chat template has: it is asked to write one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tunefleet_core.tool_calls.formats import FORMATS, reader_of
from tunefleet_core.tool_calls.written import CallFormat

__all__ = ["find_format"]

_NAME, _ARGUMENTS = "find_tune", {"title": "two words"}
_SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
_TOOLS = [{"type": "function", "function": {"name": _NAME, "description": "A tune", "parameters": _SCHEMA}}]
_ASKED = {"role": "user", "content": "Which tune?"}
_CALLED = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "abcdefgh1", "type": "function", "function": {"name": _NAME, "arguments": _ARGUMENTS}}
    ],
}

_Messages = list[dict[str, Any]]


def find_format(
    render: Callable[[_Messages, _Messages, bool], str], marks: Sequence[str] = ()
) -> CallFormat | None:
    """Return how calls are written where a template renders them; None: in no way known here.

    Args:
        render: Takes messages, tools and whether an answer is to follow; gives the text.
        marks: Special tokens as text, of which some end a turn.

    What `render` raises passes through.
    """
    prompt = render([_ASKED], _TOOLS, True)
    whole = render([_ASKED, _CALLED], _TOOLS, False)
    written = _without_marks(whole[_shared(prompt, whole) :], marks)
    return next((form for form in FORMATS if _reads(form, written)), None)


def _shared(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def _without_marks(text: str, marks: Sequence[str]) -> str:
    text = text.rstrip()
    while mark := next((mark for mark in marks if mark and text.endswith(mark)), ""):
        text = text.removesuffix(mark).rstrip()
    return text


def _reads(form: CallFormat, written: str) -> bool:
    reader = reader_of(form, {_NAME: _SCHEMA})
    calls = [*reader.push(written).calls, *reader.finish().calls]
    return [(call.name, json.loads(call.arguments)) for call in calls] == [(_NAME, _ARGUMENTS)]
