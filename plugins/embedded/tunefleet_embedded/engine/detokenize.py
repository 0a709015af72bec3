"""Text from tokens, one token at a time, never half a character and never text after a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# An unfinished UTF-8 character is at most three bytes, so at most this many trailing replacement characters
# may still turn into something else; further ones are real rubbish from the model and may go out.
_LONGEST_UNFINISHED = 3
_PROMPT_CONTEXT_TOKENS = 6


class Decoder(Protocol):
    """The part of a tokenizer that turns ids into text."""

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str: ...


class TextStream:
    """Text of one answer. `push` returns what has become certain, `finish` the rest.

    The last prompt tokens are decoded along, because some decoders treat the first token of a text in its own
    way (they drop its leading space).
    """

    def __init__(
        self, decoder: Decoder, *, prompt_ids: Sequence[int] = (), stop: tuple[str, ...] = ()
    ) -> None:
        self._decoder = decoder
        self._stop = stop
        self._window = list(prompt_ids[-_PROMPT_CONTEXT_TOKENS:])
        self._known = decoder.decode(self._window) if self._window else ""
        if self._known.endswith(_REPLACEMENT):  # The prompt ends inside a character: no safe place to cut.
            self._window, self._known = [], ""
        self._taken = len(self._known)
        self._context_length = len(self._window)
        self._held = ""
        self.is_stopped = False

    def push(self, token_id: int) -> str:
        """Adds a token, returns the text that is now certain (often the token's own, sometimes nothing)."""
        self._window.append(token_id)
        text = self._decoder.decode(self._window)
        certain = len(text)
        if text.endswith(_REPLACEMENT):
            certain -= min(_LONGEST_UNFINISHED, certain - len(text.rstrip(_REPLACEMENT)))
        fresh = text[self._taken : certain]
        if certain == len(text):
            self._start_window_at_last_token()
        else:
            self._taken = max(self._taken, certain)
        return self._until_stop(fresh)

    def finish(self) -> str:
        """Returns what was held back:

        An unfinished character, or the beginning of a stop string that never came.
        """
        if self.is_stopped:
            return ""
        rest = self._decoder.decode(self._window)[self._taken :] if self._window else ""
        held, self._held = self._held, ""
        text = held + rest
        position = _first_stop(text, self._stop)
        return text if position is None else text[:position]

    def _start_window_at_last_token(self) -> None:
        """Keeps the newest token as context, so that the window stays short however long the answer is."""
        self._window = self._window[-1:]
        self._taken = len(self._decoder.decode(self._window))

    def _until_stop(self, fresh: str) -> str:
        if not self._stop:
            return fresh
        text = self._held + fresh
        position = _first_stop(text, self._stop)
        if position is not None:
            self.is_stopped = True
            self._held = ""
            return text[:position]
        keep = _longest_stop_beginning(text, self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _first_stop(text: str, stop: tuple[str, ...]) -> int | None:
    found = [position for string in stop if (position := text.find(string)) >= 0]
    return min(found, default=None)


def _longest_stop_beginning(text: str, stop: tuple[str, ...]) -> int:
    longest = min(len(text), max(len(string) for string in stop) - 1)
    for length in range(longest, 0, -1):
        tail = text[-length:]
        if any(string.startswith(tail) for string in stop):
            return length
    return 0
