"""How many rows an epoch takes of each source, and which: the same ones for the same seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["mixed", "taken"]

_R = TypeVar("_R")


def taken(rows: int, *, weight: float = 1.0, repeats: int = 1, cap: int = 0) -> int:
    """Return how many rows an epoch takes of a source.

    Args:
        rows: Rows that it has.
        weight: How often each is taken, on average.
        repeats: Whole passes beside that.
        cap: Most rows; 0: no bound.
    """
    factor = weight * repeats
    whole = int(factor)
    count = whole * rows + round((factor - whole) * rows)
    return min(count, cap) if cap else count


def mixed(rows: Sequence[_R], *, seed: int, weight: float = 1.0, repeats: int = 1, cap: int = 0) -> list[_R]:
    """Return the rows that an epoch takes of a source: copies, a seeded share, a seeded bound.

    Example:
        >>> mixed("abcd", seed=1, weight=1.5)
        ['a', 'b', 'c', 'd', 'a', 'b']
    """
    factor = weight * repeats
    whole = int(factor)
    share = round((factor - whole) * len(rows))
    picked = sorted(random.Random(seed).sample(range(len(rows)), share))
    chosen = [*list(rows) * whole, *(rows[index] for index in picked)]
    if not cap or len(chosen) <= cap:
        return chosen
    return [chosen[index] for index in sorted(random.Random(seed).sample(range(len(chosen)), cap))]
