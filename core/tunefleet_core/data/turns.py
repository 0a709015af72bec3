"""The order of a conversation with tools: a call names a tool of the row, an answer a call before it."""

from __future__ import annotations

from collections.abc import Sequence

from tunefleet_core.data.messages import Message, ToolCall
from tunefleet_core.data.place import Place, did_you_mean, shown
from tunefleet_core.data.tools import Tool, tool_name

__all__ = ["check_turns"]


def check_turns(
    place: Place,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    *,
    fields: Sequence[str] | None = None,
) -> None:
    """Refuse calls of tools that the row does not have, and answers to calls that nobody made.

    A row without `tools` may call any: its tools may stand in the system text.

    Args:
        place: The line.
        messages: Its turns.
        tools: Its tools.
        fields: What the turns are called there; None: `messages[0]` and so on.

    Raises:
        TunefleetError: DATA_INVALID naming line and field.
    """
    names = [tool_name(tool) for tool in tools]
    waiting: list[ToolCall] = []
    has_called = False
    for index, message in enumerate(messages):
        field = fields[index] if fields is not None else f"messages[{index}]"
        if message.role == "tool":
            if not has_called:
                place.refuse(
                    f"{field}.role",
                    "is 'tool', and no call stands before it.",
                    hint="Give the assistant turn before it 'tool_calls', or say it in another role.",
                )
            waiting.remove(_answered(place, field, message, waiting))
            continue
        waiting, has_called = list(message.tool_calls), bool(message.tool_calls)
        if names:
            _check_names(place, f"{field}.tool_calls", message.tool_calls, names)


def _check_names(place: Place, field: str, calls: Sequence[ToolCall], names: Sequence[str]) -> None:
    for index, call in enumerate(calls):
        if call.name not in names:
            place.refuse(
                f"{field}[{index}].function.name",
                f"is {shown(call.name)}, which is no tool of the row{did_you_mean(call.name, names)}.",
                hint=f"Call one of {', '.join(names)}, or add the tool to 'tools' on line {place.line}.",
            )


def _answered(place: Place, field: str, message: Message, waiting: Sequence[ToolCall]) -> ToolCall:
    """Return the call that a tool answers, by its id, else by its name, else the first that waits."""
    if not waiting:
        place.refuse(
            f"{field}.role",
            "is 'tool', and every call before it has its answer.",
            hint="Remove the turn, or add the call it answers.",
        )
    call = waiting[0]
    if message.tool_call_id:
        ids = {call.id: call for call in waiting if call.id}
        if message.tool_call_id not in ids:
            known = f"waiting: {', '.join(ids)}" if ids else "the calls have no id"
            near = did_you_mean(message.tool_call_id, ids)
            place.refuse(
                f"{field}.tool_call_id",
                f"is {shown(message.tool_call_id)}, which no call before it has that waits for an answer"
                f"{near} ({known}).",
                hint="Give the call and its answer the same id.",
            )
        call = ids[message.tool_call_id]
    elif message.name:
        call = next((one for one in waiting if one.name == message.name), call)
    if message.name and message.name != call.name:
        place.refuse(
            f"{field}.name",
            f"is {shown(message.name)}, and the call it answers is one of '{call.name}'.",
            hint="Name the tool that was called, or leave 'name' out.",
        )
    return call
