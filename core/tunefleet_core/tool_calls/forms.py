"""Forms that hold an answer to calls: the marks of the family around JSON by the tools' schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tunefleet_core.answer_forms import BLANKS, AnswerForm, FormRefusedError
from tunefleet_core.tool_calls.asked import ToolUse
from tunefleet_core.tool_calls.written import CallFormat

__all__ = ["calls_form"]

_FIELD = "tool_choice"
_ANY: dict[str, Any] = {"type": "object"}


def calls_form(
    use: ToolUse, form: CallFormat | None, tokens: Mapping[str, int], *, answer: AnswerForm | None = None
) -> AnswerForm | None:
    """Return the form of an answer that may or has to call; None: it is free.

    Args:
        use: What the request asks for.
        form: How the model writes calls; None: not known.
        tokens: Added tokens of the tokenizer, by their text: a mark that is one is written as one.
        answer: The form that the request asks for of an answer without calls.

    Raises:
        FormRefusedError: What is asked for cannot be held in this way of writing, or beside that form.
    """
    may_call = bool(use.schemas) and use.choice != "none"
    is_held = may_call and (use.must_call or bool(use.strict))
    if not is_held and (answer is None or not may_call or form is None or not form.arguments):
        return answer
    if form is None or not form.arguments:
        raise _cannot(use)
    if use.must_call and answer is not None:
        raise FormRefusedError(
            answer.field, f"'{answer.field}' has no place beside a 'tool_choice' that demands a call."
        )
    return AnswerForm(lark=_lark(use, form, tokens, answer), field=_FIELD if use.must_call else "tools")


def _cannot(use: ToolUse) -> FormRefusedError:
    why = "this model's chat template writes calls in a way that answers cannot be held to"
    if use.must_call:
        return FormRefusedError(_FIELD, f"'{_FIELD}' can be none or auto only: {why}.")
    name = next(name for name in use.schemas if name in use.strict)
    field = use.field_of(name).replace("parameters", "strict")
    return FormRefusedError(field, f"'{field}' must be false or left out: {why}.")


def _lark(use: ToolUse, form: CallFormat, tokens: Mapping[str, int], answer: AnswerForm | None) -> str:
    """Write the grammar: free text or a value of the form of answers, then calls."""
    names = [use.only] if use.only else list(use.schemas)
    # A call that is demanded is held to its schema too: nobody could use another.
    held = {name: use.must_call or name in use.strict for name in names}
    rules = [f"call: {' | '.join(f'call_{index}' for index in range(len(names)))}"]
    for index, name in enumerate(names):
        schema = use.schemas[name] if held[name] else _ANY
        rules.append(f"call_{index}: {_object(name, schema, form)}")
    begin, end = _mark(form.begin, tokens), _mark(form.end, tokens)
    rules += _block(form, begin, end, is_parallel=use.is_parallel)
    if use.must_call:
        return "\n".join(["start: calls", *rules])
    if answer is not None:
        return "\n".join(["start: answer | calls", f"answer: %json {answer.schema}", *rules])
    return "\n".join([*_beside_text(form, begin), *rules])


def _object(name: str, schema: Mapping[str, Any], form: CallFormat) -> str:
    opening = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{form.arguments}": '
    value = json.dumps({**schema, "x-guidance": {"whitespace_pattern": BLANKS}})
    if form.end or not form.begin:
        return f'{_text(opening)} %json {value} "}}"'
    return f'{_text(opening)} %json {value} {_text(", " + json.dumps("id") + ": ")} ID "}}"'


def _block(form: CallFormat, begin: str, end: str, *, is_parallel: bool) -> list[str]:
    """Rules for all calls of an answer: `calls`, and `rest`, what of it follows the first mark."""
    if not form.begin:
        return ["calls: call"]
    if form.end:
        more = f'("\\n" {begin} body)*' if is_parallel else ""
        return [f"calls: {begin} rest", f"rest: body {more}", f'body: "\\n" call "\\n" {end}']
    more = '(", " call)*' if is_parallel else ""
    return [f"calls: {begin} rest", f'rest: " [" call {more} "]"', 'ID: /"[a-zA-Z0-9]{9}"/']


def _beside_text(form: CallFormat, begin: str) -> list[str]:
    if not form.begin:
        return ["start: calls | FREE", r"FREE: /\s*([^{\s](.|\n)*)?/"]
    if begin.startswith("<["):  # a token of its own, which no text holds
        return ["start: FREE | FREE calls", r"FREE: /(.|\n)*/"]
    return ["start: FREE | first rest", f"first[lazy]: FREE {begin}", r"FREE: /(.|\n)*/"]


def _mark(text: str, tokens: Mapping[str, int]) -> str:
    return f"<[{tokens[text]}]>" if text in tokens else _text(text)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
