"""Reads answers whose calls are JSON objects one after the other: Llama 4.

Its template writes text between two marks and the calls behind them; the model also writes calls between
the marks, and an answer that is nothing but calls, as Llama 3.1 does.
"""

from __future__ import annotations

import json
from typing import cast

from tunefleet_core.tool_calls.reader import CallReader, Piece, possible_beginning
from tunefleet_core.tool_calls.written import Call, call_of

__all__ = ["OBJECTS_MARKS", "ObjectsReader"]

_BEGIN, _END = "<|python_start|>", "<|python_end|>"
OBJECTS_MARKS = (_BEGIN, _END)
_DECODER = json.JSONDecoder()


class ObjectsReader(CallReader):
    """Reads one answer: objects are held until they are whole, all else is text."""

    _is_text = False
    """Whether what comes up to the next mark is text."""

    def finish(self) -> Piece:
        """Take the end of the answer; what is no whole call is text."""
        held, self._held = self._held, ""
        return self._piece(["" if self.has_calls and not held.strip() else held], [])

    def _step(self, said: list[str], calls: list[Call]) -> bool:
        if self._is_text:
            return self._go_on_with_text(said)
        begun = self._held.lstrip()
        for mark in OBJECTS_MARKS:
            if begun.startswith(mark):
                self._held = begun.removeprefix(mark)
                return True
        if not begun or any(mark.startswith(begun) for mark in OBJECTS_MARKS):
            return False
        if begun[0] != "{":
            self._is_text = True
            return True
        try:
            value, end = _DECODER.raw_decode(begun)
        except (ValueError, RecursionError):
            return False  # not whole yet
        call = self._call(value)
        if call is None:
            self._is_text = True
            return True
        calls.append(call)
        self._held = begun[end:].removeprefix(";").lstrip()
        return bool(self._held)

    def _go_on_with_text(self, said: list[str]) -> bool:
        found = [(self._held.find(mark), mark) for mark in OBJECTS_MARKS if mark in self._held]
        if found:
            at, mark = min(found)
            said.append(self._held[:at])
            self._held, self._is_text = self._held[at + len(mark) :], False
            return True
        kept = max(possible_beginning(self._held, mark) for mark in OBJECTS_MARKS)
        said.append(self._held[: len(self._held) - kept])
        self._held = self._held[len(self._held) - kept :]
        return False

    def _call(self, value: object) -> Call | None:
        """Return a call, and not an object that merely has a name: no mark tells them apart."""
        if not isinstance(value, dict):
            return None
        found = cast("dict[str, object]", value)
        is_call = "parameters" in found and found.get("name") in self._schemas
        return call_of(found, "parameters") if is_call else None
