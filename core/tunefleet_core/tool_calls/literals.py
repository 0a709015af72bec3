"""Reads calls of the kind `call:NAME{key:value,…}` whose texts stand between marks: Gemma 4, FunctionGemma.

Keys stand as they are or between the marks too; numbers, true, false, null, lists and objects as in JSON.
Source: https://ai.google.dev/gemma/docs/functiongemma/formatting-and-best-practices, and Gemma 4's template.
"""

from __future__ import annotations

import json
import re

from tunefleet_core.tool_calls.written import Call, call_with

__all__ = ["read_literal_call"]

_CALL = re.compile(r"\s*call:([^\s{]+?)\s*(?=\{)")
_BARE = re.compile(r"[^,:{}\[\]]+")
_DEEPEST = 64


class _WrongError(Exception):
    """The text is no call."""


def read_literal_call(text: str, quote: str) -> list[Call] | None:
    """Return the call of a text; None if it is none.

    Args:
        text: What stands between the marks of a call.
        quote: What stands around texts.
    """
    head = _CALL.match(text)
    if head is None:
        return None
    literal = _Literal(text[head.end() :], quote)
    try:
        value = literal.value(0)
        literal.end()
    except _WrongError:
        return None
    call = call_with(head[1], json.dumps(value, ensure_ascii=False))
    return [call] if call else None


class _Literal:
    """A value that is being read."""

    def __init__(self, text: str, quote: str) -> None:
        self._text = text
        self._quote = quote
        self._at = 0

    def value(self, depth: int) -> object:
        """Return the value that begins here."""
        if depth > _DEEPEST:
            raise _WrongError
        if self._takes(self._quote):
            return self._quoted()
        if self._takes("{"):
            return self._object(depth)
        if self._takes("["):
            return self._list(depth)
        word = self._bare()
        try:
            return json.loads(word)
        except ValueError:
            return word  # a text without its marks

    def end(self) -> None:
        """Make sure that nothing follows."""
        if self._text[self._at :].strip():
            raise _WrongError

    def _object(self, depth: int) -> dict[str, object]:
        found: dict[str, object] = {}
        if self._takes("}"):
            return found
        while True:
            key = self._quoted() if self._takes(self._quote) else self._bare()
            self._require(":")
            found[key] = self.value(depth + 1)
            if self._takes("}"):
                return found
            self._require(",")

    def _list(self, depth: int) -> list[object]:
        found: list[object] = []
        if self._takes("]"):
            return found
        while True:
            found.append(self.value(depth + 1))
            if self._takes("]"):
                return found
            self._require(",")

    def _quoted(self) -> str:
        end = self._text.find(self._quote, self._at)
        if end < 0:
            raise _WrongError
        text, self._at = self._text[self._at : end], end + len(self._quote)
        return text

    def _bare(self) -> str:
        found = _BARE.match(self._text, self._at)
        if found is None or not found[0].strip():
            raise _WrongError
        self._at = found.end()
        return found[0].strip()

    def _takes(self, mark: str) -> bool:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
        is_here = self._text.startswith(mark, self._at)
        self._at += len(mark) * is_here
        return is_here

    def _require(self, mark: str) -> None:
        if not self._takes(mark):
            raise _WrongError
