"""What a check of the doctor found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

__all__ = ["Finding", "Status"]

Status = Literal["OK", "WARNING", "FAILED", "SKIPPED"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found, and what to do if it found something wrong."""

    check: str
    status: Status
    text: str
    fix: str = ""

    def fields(self) -> dict[str, str]:
        """Return the finding for JSON."""
        return asdict(self)
