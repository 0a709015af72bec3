"""Whether what an engine writes still makes sense: judged by what it wrote to the same question at first.

A fault of memory or of a kernel rarely ends an engine: it answers on, with nothing, or with one token again
and again. Some models write so by nature to a question of one token: only what was otherwise before counts.
"""

from __future__ import annotations

__all__ = ["ProbeAnswers"]


class ProbeAnswers:
    """Remembers the first answer of each model to one question that is asked greedily again and again."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], str] = {}

    def makes_sense(self, address: str, model: str, text: str) -> bool:
        """Say whether an answer is neither empty nor a loop, where the first one was neither.

        Args:
            address: Of the engine.
            model: Which of its models was asked.
            text: What it wrote.
        """
        first = self._first.setdefault((address, model), text)
        return _variety(text) >= min(_variety(first), 2)


def _variety(text: str) -> int:
    """Return 0 for nothing, 1 for one piece again and again, else 2."""
    if not text.strip():
        return 0
    # The last time of a loop may be cut.
    is_loop = any(text.startswith(text[length:]) for length in range(1, len(text) // 2 + 1))
    return 1 if is_loop or len(text) == 1 else 2
