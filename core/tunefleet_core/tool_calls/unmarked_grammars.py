"""Grammars of calls that no mark of their own stands around: harmony's messages, Llama 4's objects.

Their marks are tokens in every tokenizer of these models; without that, text could write them unseen.
"""

from __future__ import annotations

from tunefleet_core.tool_calls.held import HeldCalls, json_value, literal
from tunefleet_core.tool_calls.messages import HARMONY_MARKS
from tunefleet_core.tool_calls.objects import OBJECTS_MARKS

__all__ = ["harmony_messages", "has_marks", "objects_alone"]

_FREE = r"FREE: /(.|\n)*/"
_NO_OBJECT = r"TEXT: /\s*([^{\s](.|\n)*)?/"
"""Text that cannot be taken for a call."""


def harmony_messages(held: HeldCalls) -> str:
    """Write the grammar of an answer in harmony: messages, the last of them a call or not.

    The prompt ends inside the first header. A call ends the answer, so there is one at most.
    """
    start, body, end, channel, constrain = (
        held.mark(f"<|{name}|>") for name in ("start", "message", "end", "channel", "constrain")
    )
    rules = [f"calls: {' | '.join(f'call_{at}' for at in range(len(held.names)))}"]
    for at, name in enumerate(held.names):
        to = f"to=functions.{name}"
        # As the template writes a header, and as models were published to write it.
        headers = (
            f"{literal(f' {to}')} {channel} {literal('commentary json')}",
            f"{channel} {literal(f'commentary {to} ')} {constrain} {literal('json')}",
        )
        rules.append(f"call_{at}: ({' | '.join(headers)}) {body} {json_value(held.schema(name))}")
    free = [
        "start: FREE | said* (calls | message)",
        f'said: message {end} {start} "assistant"',
        f"message: {channel} CHANNEL {body} FREE",
        "CHANNEL: /analysis|commentary|final/",
        _FREE,
    ]
    return "\n".join([*held.start(free), *rules])


def objects_alone(held: HeldCalls) -> str:
    """Write the grammar of calls that are JSON objects: alone, between Python's marks, or behind them."""
    begin, end = (held.mark(mark) for mark in OBJECTS_MARKS)
    rules = [
        f"objects: call {'call*' if held.use.is_parallel else ''}",
        f"call: {' | '.join(f'call_{at}' for at in range(len(held.names)))}",
    ]
    for at, name in enumerate(held.names):
        opening = f'{{"name": {literal(name)}, "parameters": '
        rules.append(f'call_{at}: {literal(opening)} {json_value(held.schema(name))} "}}"')
    if held.use.must_call or held.answer is not None:
        rules.append(f"calls: objects | {begin} {end} objects")
        return "\n".join([*held.start([]), *rules])
    free = [
        f"start: TEXT | objects | TEXT {begin} (objects {end}? | TEXT | TEXT {end} (objects | TEXT))",
        _NO_OBJECT,
    ]
    return "\n".join([*free, *rules])


def has_marks(held: HeldCalls) -> bool:
    """Say whether the marks of the way of writing are tokens."""
    optional = {"<|constrain|>", "<|call|>", "<|return|>"}
    marks = HARMONY_MARKS if held.form.name == "openai" else OBJECTS_MARKS
    return all(mark in held.tokens for mark in marks if mark not in optional)
