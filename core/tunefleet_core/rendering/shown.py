"""What a chat template shows of a conversation: a template that leaves something out trains other text.

Templates say nothing about it: one without tools renders a row with tools, and drops them. So
each is asked with small conversations that hold a word found nowhere else. What it does not
show is refused where a row holds it, by line and field.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from tunefleet_core.data import Row
from tunefleet_core.errors import FieldViolation, Reason, TunefleetError
from tunefleet_core.rendering.renderer import ChatMessages, ChatTools, Renderer, TemplateRefusedError

__all__ = ["has_left_out_thoughts", "held", "reference_needs", "require_shown", "shown_by"]

_MARK = "qzmarkqz"
_NINE = "callaaaa1", "callaaaa2"  # nine letters or digits: ids that every template takes
_ASKED = {"role": "user", "content": "q"}
_TOOL_HINT = "Take a base whose chat template knows tools, or write them into the text of the turns."
_THOUGHT_HINT = "Take a base whose chat template knows thoughts, or write them into 'content'."

_LEFT_OUT: Mapping[str, tuple[str, str]] = {
    "tools": ("shows no tools, so the model would not see them", _TOOL_HINT),
    "calls": ("shows no tool calls, so they would not be trained", _TOOL_HINT),
    "parallel_calls": (
        "shows only the first call of a turn",
        "Give each call a turn of its own, followed by its answer.",
    ),
    "text_beside_calls": (
        "shows no text in a turn with tool calls, so it would not be trained",
        "Remove the text, or put it into a turn of its own.",
    ),
    "results": ("shows nothing of what tools answer", _TOOL_HINT),
    "thoughts": ("shows no thoughts, so they would not be trained", _THOUGHT_HINT),
    "thoughts_beside_calls": (
        "shows no thoughts in a turn with tool calls, so they would not be trained",
        "Remove them, or take a base whose chat template shows them.",
    ),
}
"""What a row can hold beside plain turns: what it means to leave it out, and the next step."""


def held(row: Row) -> Iterator[tuple[str, str]]:
    """Yield what a row holds beside plain turns, as (word of `_LEFT_OUT`, field); words come again."""
    if row.tools:
        yield "tools", "tools"
    for index, message in enumerate(row.messages):
        field = f"messages[{index}]"
        if message.role == "tool":
            yield "results", field
        if message.tool_calls:
            yield "calls", f"{field}.tool_calls"
            if len(message.tool_calls) > 1:
                yield "parallel_calls", f"{field}.tool_calls[1]"
            if message.content:
                yield "text_beside_calls", f"{field}.content"
        if message.reasoning_content:
            word = "thoughts_beside_calls" if message.tool_calls else "thoughts"
            yield word, f"{field}.reasoning_content"


def reference_needs(words: Collection[str]) -> frozenset[str]:
    """Return which reference conversations matter to rows that hold this."""
    needs = {
        "tools": {"tools", "calls", "results"},
        "parallel_calls": {"parallel_calls"},
        "thoughts": {"thoughts", "thoughts_beside_calls"},
    }
    return frozenset(need for need, any_of in needs.items() if any_of & set(words))


def shown_by(renderer: Renderer) -> frozenset[str]:
    """Return the words of `held` that a template shows, or refuses to take."""
    return frozenset(word for word, chat, tools in _questions() if _shows(renderer, chat, tools))


def require_shown(path: str, row: Row, shown: frozenset[str]) -> None:
    """Refuse a row of which the template leaves something out.

    Raises:
        TunefleetError: DATA_INVALID naming line and field.
    """
    for word, field in held(row):
        if word in shown:
            continue
        fact, hint = _LEFT_OUT[word]
        raise TunefleetError(
            Reason.DATA_INVALID,
            f"{Path(path).name}:{row.line}: {field}: the chat template {fact}.",
            hint=hint,
            metadata={"path": path, "line": str(row.line), "field": field},
            violations=(FieldViolation(field=field, description=f"the chat template {fact}"),),
        )


def has_left_out_thoughts(row: Row, renderer: Renderer) -> bool:
    """Whether the template drops a thought of this row; many keep only those of the last answer."""
    thoughts = [message.reasoning_content.strip() for message in row.messages if message.reasoning_content]
    if not thoughts:
        return False
    written = renderer.written(row.as_chat(), row.tools)
    return any(thought not in written for thought in thoughts)


def _shows(renderer: Renderer, chat: ChatMessages, tools: ChatTools) -> bool:
    try:
        return _MARK in renderer.written(chat, tools)
    except TemplateRefusedError:
        return True  # then it refuses the rows that hold it too, in its own words


def _questions() -> Iterator[tuple[str, ChatMessages, ChatTools]]:
    """Yield conversations with the mark in one place each."""
    tools = [_tool("f", "d")]
    answer = {"role": "assistant", "content": "a"}
    yield "tools", [_ASKED, answer], [_tool(_MARK, _MARK)]
    yield "calls", [_ASKED, _calling(_MARK)], tools
    yield "parallel_calls", [_ASKED, _calling("v", _MARK)], tools
    yield "text_beside_calls", [_ASKED, {**_calling("v"), "content": _MARK}], tools
    result = {"role": "tool", "tool_call_id": _NINE[0], "name": "f", "content": _MARK}
    yield "results", [_ASKED, _calling("v"), result, answer], tools
    yield "thoughts", [_ASKED, {**answer, "reasoning_content": _MARK}], ()
    yield "thoughts_beside_calls", [_ASKED, {**_calling("v"), "reasoning_content": _MARK}], tools


def _tool(name: str, description: str) -> dict[str, object]:
    schema = {"type": "object", "properties": {"k": {"type": "string", "description": "x"}}}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def _calling(*values: str) -> dict[str, object]:
    calls = [
        {"id": identity, "type": "function", "function": {"name": "f", "arguments": {"k": value}}}
        for identity, value in zip(_NINE, values, strict=False)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}
