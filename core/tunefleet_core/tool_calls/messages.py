"""Reads answers that are several messages, each with a header: the harmony format of gpt-oss.

Source: https://cookbook.openai.com/articles/openai-harmony. A header says the channel of its message
and to whom it goes; a message to `functions.NAME` is a call. Thoughts (`analysis`) are for nobody,
the other messages for people. The prompt ends inside the first header.
"""

from __future__ import annotations

import re

from tunefleet_core.tool_calls.reader import CallReader, Piece, possible_beginning
from tunefleet_core.tool_calls.written import Call, call_with

__all__ = ["HARMONY_MARKS", "HarmonyReader"]

_START, _BODY = "<|start|>", "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>", _START)
HARMONY_MARKS = (*_ENDS, _BODY, "<|channel|>", "<|constrain|>")
"""What has to be seen of an answer; tokenizers take these for special tokens."""
_FUNCTION = re.compile(r"\bto=functions\.([^\s<]+)")
_THOUGHT = re.compile(r"<\|channel\|>\s*analysis\b")


class HarmonyReader(CallReader):
    """Reads one answer, message by message."""

    _header: str | None = None
    """Of the message that is being read; None: it is not whole yet."""
    _has_message = False

    def finish(self) -> Piece:
        """Take the end of the answer: also a call whose end mark did not come."""
        held, self._held = self._held, ""
        if self._header is None:
            # A model that writes no headers wrote text; a header that was cut says nothing.
            return self._piece([] if self._has_message or "<|" in held else [held], [])
        said: list[str] = []
        calls: list[Call] = []
        self._end_message(held, "", said, calls)
        return self._piece(said, calls)

    def _step(self, said: list[str], calls: list[Call]) -> bool:
        if self._header is None:
            header, mark, rest = self._held.partition(_BODY)
            if not mark:
                return False
            self._header, self._held, self._has_message = header, rest, True
            return True
        ends = [(self._held.find(mark), mark) for mark in _ENDS if mark in self._held]
        if ends:
            at, mark = min(ends)
            body, self._held = self._held[:at], self._held[at + len(mark) :]
            self._end_message(body, mark, said, calls)
            return True
        if _FUNCTION.search(self._header) is None:
            kept = max(possible_beginning(self._held, mark) for mark in _ENDS)
            body, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
            self._say(body, said)
        return False

    def _end_message(self, body: str, mark: str, said: list[str], calls: list[Call]) -> None:
        header = self._header or ""
        if (found := _FUNCTION.search(header)) is None:
            self._say(body, said)
        elif call := call_with(found[1], body):
            calls.append(call)
        else:
            said.append(header + _BODY + body + mark)
        self._header = None

    def _say(self, body: str, said: list[str]) -> None:
        if _THOUGHT.search(self._header or "") is None:
            said.append(body)
