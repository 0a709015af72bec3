"""Read messages JSONL: one JSON object per line with a `messages` list, and `tools` if it has any.

Every consumer of rows (the audit, the trainer, the evaluation) reads them here, so
that a row means the same everywhere and a wrong row is named by file, line and field.
Nothing is repaired or skipped in silence: training on other text than the file holds
is worse than not training. Only blank lines and a byte order mark are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tunefleet_core.data.forms import MESSAGES, require_form
from tunefleet_core.data.lines import MAX_LINE_BYTES, read_objects
from tunefleet_core.data.messages import Message, read_message
from tunefleet_core.data.place import Place, kind_of
from tunefleet_core.data.tools import Tool, read_tools
from tunefleet_core.data.turns import check_turns

__all__ = ["MAX_LINE_BYTES", "Row", "read_rows"]

_SHAPE = MESSAGES.shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One conversation, its tools, and the line of the file it stands on, counted from 1."""

    line: int
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()

    def as_chat(self) -> list[dict[str, object]]:
        """Return the turns in the form that chat templates take; `tools` go beside them."""
        return [message.as_chat() for message in self.messages]

    @property
    def has_tools(self) -> bool:
        """Whether the row offers tools, or calls some."""
        return bool(self.tools) or any(message.tool_calls for message in self.messages)

    @property
    def has_thoughts(self) -> bool:
        """Whether an assistant thinks in a field of its own."""
        return any(message.reasoning_content for message in self.messages)


def read_rows(path: Path | str, *, require_assistant: bool = True) -> Iterator[Row]:
    """Yield the rows of a messages JSONL file, in order.

    Args:
        path: The file; UTF-8, a byte order mark is accepted.
        require_assistant: Refuse rows in which nobody answers: nothing to train on.

    Raises:
        TunefleetError: DATA_INVALID at the first wrong row, as
            `train.jsonl:17: messages[1].role: ...`, and for a missing or empty file.

    Example:
        >>> for row in read_rows("train.jsonl"):  # doctest: +SKIP
        ...     print(row.line, row.messages[-1].content)
    """
    for place, value in read_objects(path, shape=_SHAPE):
        yield _row(place, value, require_assistant=require_assistant)


def _row(place: Place, value: Mapping[str, object], *, require_assistant: bool) -> Row:
    if value.get("functions") is not None:
        place.refuse("functions", "is the old name of 'tools'.", hint="Write them as 'tools'.")
    require_form(place, value, MESSAGES)
    items = value["messages"]
    if not isinstance(items, list):
        place.refuse("messages", f"must be a list, got {kind_of(items)}.", hint=_SHAPE)
    items = cast("list[object]", items)
    if not items:
        place.refuse("messages", "is an empty list.", hint=_SHAPE)
    messages = tuple(read_message(place, f"messages[{index}]", item) for index, item in enumerate(items))
    if require_assistant and all(message.role != "assistant" for message in messages):
        roles = ", ".join(dict.fromkeys(message.role for message in messages))
        place.refuse(
            "messages",
            f"has no turn of the role 'assistant', so nothing could be learned; roles found: {roles}.",
            hint=f"Add the wanted answer as an 'assistant' turn to line {place.line}, or remove the line.",
        )
    tools = read_tools(place, value.get("tools"))
    check_turns(place, messages, tools)
    return Row(line=place.line, messages=messages, tools=tools)
