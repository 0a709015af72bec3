"""The shape of a reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Reward", "Scorer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """A reward with its options, ready to score.

    Attributes:
        score: From the further fields of rows and an answer to each, as text without special
            tokens, to a number each; more is better.
        needs: Fields that every row must have.
        model: Name of the reward model that scores token ids instead of `score`; empty: none.
        files: Files of code that it runs, absolute.
    """

    score: Callable[[Sequence[Mapping[str, object]], Sequence[str]], Sequence[float]]
    needs: tuple[str, ...] = ()
    model: str = ""
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A way to score answers. It runs in the process of the training and must be quick.

    Attributes:
        name: What a job file calls it, a lower-case word.
        summary: One sentence for people.
        make: From the options of a job file to a scorer; a ValueError says what is wrong with them.

    Example:
        >>> def short(options):
        ...     most = float(options.get("most", 40))
        ...     return Scorer(score=lambda rows, answers: [float(len(text) <= most) for text in answers])
        >>> Reward(name="short", summary="1 for short answers.", make=short).name
        'short'
    """

    name: str
    summary: str
    make: Callable[[Mapping[str, object]], Scorer]
