"""What a grammar of calls is written of, and the parts that all of them have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunefleet_core.answer_forms import BLANKS, AnswerForm
from tunefleet_core.tool_calls.asked import ToolUse
from tunefleet_core.tool_calls.written import CallFormat

__all__ = ["HeldCalls", "json_value", "literal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldCalls:
    """Calls that an answer is held to.

    Attributes:
        use: What the request asks for.
        form: How the model writes calls.
        tokens: Added tokens of the tokenizer, by their text: a mark that is one is written as one.
        answer: The form that the request asks for of an answer without calls.
    """

    use: ToolUse
    form: CallFormat
    tokens: Mapping[str, int]
    answer: AnswerForm | None = None

    @property
    def names(self) -> list[str]:
        """Functions that may be called."""
        return [self.use.only] if self.use.only else list(self.use.schemas)

    def schema(self, name: str) -> Mapping[str, Any] | None:
        """Return what the arguments of a function are held to; None: to nothing.

        A call that is demanded is held to its schema too: nobody could use another.
        """
        is_held = self.use.must_call or name in self.use.strict
        return self.use.schemas[name] if is_held else None

    def mark(self, text: str) -> str:
        """Return a mark as a grammar names it."""
        return f"<[{self.tokens[text]}]>" if text in self.tokens else literal(text)

    def start(self, free: list[str]) -> list[str]:
        """Return the rules of a whole answer: `calls`, a value in the form of answers, or free text.

        Args:
            free: Rules of `start` where calls may come and text may too.
        """
        if self.use.must_call:
            return ["start: calls"]
        if self.answer is not None:
            return ["start: answer | calls", f"answer: %json {self.answer.schema}"]
        return free


def literal(text: str) -> str:
    """Return text as a grammar writes it."""
    return json.dumps(text, ensure_ascii=False)


def json_value(schema: Mapping[str, Any] | None) -> str:
    """Return what a JSON value of a schema is in a grammar; None: any object."""
    found = {"type": "object"} if schema is None else schema
    return f"%json {json.dumps({**found, 'x-guidance': {'whitespace_pattern': BLANKS}})}"
