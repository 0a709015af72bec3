"""The longest row, by the rows."""

from __future__ import annotations

__all__ = ["ROUND_TO", "default_length"]

ROUND_TO = 64


def default_length(tokens: int) -> int:
    """Return a length in tokens rounded up to a multiple of 64, so that kernels have whole blocks."""
    return max(ROUND_TO, -(-tokens // ROUND_TO) * ROUND_TO)
