"""Read the options of a reward: unknown names and wrong kinds are a ValueError that says so."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["OptionReader"]


class OptionReader:
    """Options by name and kind.

    Args:
        options: As a job file gives them.
        known: Names that there are.

    Raises:
        ValueError: an option has another name.
    """

    def __init__(self, options: Mapping[str, object], *known: str) -> None:
        self._options = options
        for name in options:
            if name not in known:
                raise ValueError(f"{name} is no option; it takes {', '.join(known)}")

    def text(self, name: str, default: str = "") -> str:
        """Return a text."""
        value = self._options.get(name, default)
        if not isinstance(value, str):
            raise ValueError(f"{name} must be a text")
        return value

    def number(self, name: str, default: float) -> float:
        """Return a number that is not negative."""
        value = self._options.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise ValueError(f"{name} must be a number that is not negative")
        return float(value)

    def flag(self, name: str) -> bool:
        """Return a flag; false if it is left out."""
        value = self._options.get(name, False)
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false")
        return value
