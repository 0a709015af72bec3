"""Texts that end an answer, found wherever tokens cut them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopTexts"]


class StopTexts:
    """Passes text on as soon as it cannot be the beginning of a text that ends the answer.

    Example:
        >>> stops = StopTexts(["end"])
        >>> stops.push("the e"), stops.push("nd of"), stops.is_complete
        ('the ', '', True)
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self._held = ""
        self.is_complete = False

    def push(self, text: str) -> str:
        """Take text; return what may be shown of it and of what was held."""
        self._held += text
        found = [at for word in self._words if (at := self._held.find(word)) >= 0]
        if found:
            self.is_complete = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max((self._begun(word) for word in self._words), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def rest(self) -> str:
        """Return what is held when the answer ends for another reason."""
        shown, self._held = self._held, ""
        return shown

    def _begun(self, word: str) -> int:
        sizes = range(min(len(word) - 1, len(self._held)), 0, -1)
        return next((size for size in sizes if self._held.endswith(word[:size])), 0)
