"""How a claim fails."""

from __future__ import annotations

__all__ = ["InvariantError", "require"]


class InvariantError(AssertionError):
    """Something that must never happen has happened."""


def require(claim: bool, sentence: str) -> None:
    """Raise InvariantError with a sentence unless a claim holds."""
    if not claim:
        raise InvariantError(sentence)
