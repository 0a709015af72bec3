"""A cell of the matrix, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Cell", "Standing", "Verdict"]


class Standing(StrEnum):
    """How it is known that something works."""

    PROVEN = "proven"
    STATED = "stated"
    UNKNOWN = "unknown"
    NO = "no"


_ORDER = (Standing.PROVEN, Standing.STATED, Standing.UNKNOWN, Standing.NO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One combination.

    Attributes:
        backend: Backend that trains.
        method: Training method, such as `sft`.
        adaptation: One of `ADAPTATIONS`.
        format: Format of the base while it is trained; empty: none.
        family: Model family; empty: any, for a backend that does not look at its base.
        engine: Engine that serves the result; empty: the training alone.
    """

    backend: str
    method: str
    adaptation: str
    format: str = ""
    family: str = ""
    engine: str = ""

    @property
    def order(self) -> tuple[str, ...]:
        """What cells are sorted by."""
        return self.family, self.backend, self.method, self.adaptation, self.format, self.engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is said of a combination.

    Attributes:
        standing: Whether it works, and how that is known.
        reason: Why not, or what shows that it does: a test of ours, a registry, a document.
        field: Field of the spec that asks for what does not work; empty: none alone.
        instead: What to do instead; empty unless it does not work.
    """

    standing: Standing
    reason: str
    field: str = ""
    instead: str = ""

    @property
    def works(self) -> bool:
        """Whether nothing speaks against it."""
        return self.standing is not Standing.NO

    def and_then(self, other: Verdict) -> Verdict:
        """Return what is said of both together: the weaker of the two, with both reasons if they agree."""
        if self.standing is other.standing and self.works:
            return Verdict(standing=self.standing, reason=f"{self.reason}; {other.reason}")
        return max(self, other, key=lambda verdict: _ORDER.index(verdict.standing))
