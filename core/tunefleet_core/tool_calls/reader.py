"""Takes calls out of an answer while it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tunefleet_core.tool_calls.written import Call, CallFormat

__all__ = ["CallReader", "Piece", "possible_beginning"]


class Piece(NamedTuple):
    """What has become certain of an answer: text for people, then calls."""

    text: str
    calls: tuple[Call, ...]


class CallReader:
    """Reads one answer. A call goes out when it is whole; what only begins like one stays text.

    Blanks around calls belong to neither.
    """

    def __init__(
        self, form: CallFormat, schemas: Mapping[str, Mapping[str, Any]], *, is_parallel: bool = True
    ) -> None:
        """Begin an answer.

        Args:
            form: How calls are written.
            schemas: JSON Schema of the arguments, by name of the function.
            is_parallel: Whether there may be several; else what follows the first one is dropped.
        """
        self._form = form
        self._schemas = schemas
        self._is_parallel = is_parallel
        self._held = ""
        self._in_call = False
        self._has_text = False
        self._count = 0

    @property
    def has_calls(self) -> bool:
        """Whether a call has come."""
        return self._count > 0

    def push(self, text: str) -> Piece:
        """Take more of the answer."""
        self._held += text
        said: list[str] = []
        calls: list[Call] = []
        while self._step(said, calls):
            if calls and not self._is_parallel:
                self._held = ""
        return self._piece(said, calls)

    def finish(self) -> Piece:
        """Take the end of the answer: also a call whose end mark did not come."""
        held, self._held = self._held, ""
        if not self._in_call:
            # Blanks that were held for a call that never came are the answer's own.
            return self._piece(["" if self.has_calls and not held.strip() else held], [])
        self._in_call = False
        found = self._form.read(held, self._schemas)
        return self._piece([] if found else [self._form.begin + held], found or [])

    def _step(self, said: list[str], calls: list[Call]) -> bool:
        """Go on by one mark; False if there is none more in what is held."""
        if self._in_call:
            return self._end_call(said, calls)
        if not self._form.begin:
            return self._begin_whole(said)
        before, mark, after = self._held.partition(self._form.begin)
        if mark:
            said.append(before.rstrip())
            self._held, self._in_call = after, True
            return True
        kept = possible_beginning(self._held, self._form.begin)
        said.append(self._held[: len(self._held) - kept])
        self._held = self._held[len(self._held) - kept :]
        return False

    def _begin_whole(self, said: list[str]) -> bool:
        begun = self._held.lstrip()
        if self._has_text or (begun and begun[0] != "{"):
            said.append(self._held)
            self._has_text, self._held = True, ""
        elif begun:
            self._in_call = True
        return False

    def _end_call(self, said: list[str], calls: list[Call]) -> bool:
        if not self._form.end:
            return False
        body, mark, after = self._held.partition(self._form.end)
        if not mark:
            return False
        self._held, self._in_call = after, False
        found = self._form.read(body, self._schemas)
        if found:
            calls += found
        else:
            said.append(self._form.begin + body + mark)
        return True

    def _piece(self, said: list[str], calls: list[Call]) -> Piece:
        text = "".join(said)
        if self.has_calls and not self._is_parallel:
            return Piece("", ())
        if self._count and not text.strip():
            text = ""  # between two calls
        kept = calls if self._is_parallel else calls[:1]
        self._count += len(kept)
        return Piece(text, tuple(kept))


def possible_beginning(text: str, mark: str) -> int:
    """Return how much of the end of a text may belong to a mark that follows, or be blanks before it."""
    length = next(
        (size for size in range(min(len(text), len(mark) - 1), 0, -1) if mark.startswith(text[-size:])), 0
    )
    before = text[: len(text) - length]
    return length + len(before) - len(before.rstrip())
