"""Forms that hold an answer to calls: the marks of the family around arguments by the tools' schemas."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tunefleet_core.answer_forms import AnswerForm, FormRefusedError
from tunefleet_core.tool_calls.asked import ToolUse
from tunefleet_core.tool_calls.held import HeldCalls
from tunefleet_core.tool_calls.marked_grammars import objects_in_marks, tags_in_marks
from tunefleet_core.tool_calls.unmarked_grammars import harmony_messages, has_marks, objects_alone
from tunefleet_core.tool_calls.written import CallFormat

__all__ = ["calls_form"]

_FIELD = "tool_choice"
_GRAMMARS: Mapping[str, Callable[[HeldCalls], str]] = {
    "hermes": objects_in_marks,
    "mistral": objects_in_marks,
    "llama3_json": objects_in_marks,
    "qwen3_coder": tags_in_marks,
    "openai": harmony_messages,
    "llama4_json": objects_alone,
}
"""What writes the grammar of a way of writing; a way that is not here is read and cannot be held."""
_BY_MARKS_ALONE = frozenset({"openai", "llama4_json"})


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
    held = None if form is None else HeldCalls(use=use, form=form, tokens=tokens, answer=answer)
    grammar = None if held is None else _grammar(held)
    if not is_held and (answer is None or not may_call or grammar is None):
        return answer
    if held is None or grammar is None:
        raise _cannot(use)
    if use.must_call and answer is not None:
        raise FormRefusedError(
            answer.field, f"'{answer.field}' has no place beside a 'tool_choice' that demands a call."
        )
    return AnswerForm(lark=grammar(held), field=_FIELD if use.must_call else "tools")


def _grammar(held: HeldCalls) -> Callable[[HeldCalls], str] | None:
    if held.form.name in _BY_MARKS_ALONE and not has_marks(held):
        return None
    return _GRAMMARS.get(held.form.name)


def _cannot(use: ToolUse) -> FormRefusedError:
    why = "this model's chat template writes calls in a way that answers cannot be held to"
    if use.must_call:
        return FormRefusedError(_FIELD, f"'{_FIELD}' can be none or auto only: {why}.")
    name = next(name for name in use.schemas if name in use.strict)
    field = use.field_of(name).replace("parameters", "strict")
    return FormRefusedError(field, f"'{field}' must be false or left out: {why}.")
