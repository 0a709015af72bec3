"""What became of a plugin: a value to show, instead of a plugin that vanishes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["PluginRecord", "PluginStatus"]


class PluginStatus(StrEnum):
    """Whether a plugin counts."""

    ACTIVE = "ACTIVE"
    DISABLED = "DISABLED"
    FAILED = "FAILED"
    INCOMPATIBLE = "INCOMPATIBLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginRecord:
    """A plugin that was found, and what became of it.

    Attributes:
        name: Name of its entry point.
        dist: The distribution it comes from.
        version: That distribution's version.
        status: Whether it counts.
        error: Why it does not, one sentence; empty if it does.
        hint: What to do about it.
        families: Names of the model families it brings.
        backends: Names of the backends it brings.
        formats: Names of the quantisation formats it brings.
        recipes: Names of the recipes it brings.
    """

    name: str
    dist: str
    version: str
    status: PluginStatus
    error: str = ""
    hint: str = ""
    families: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()

    @property
    def distribution(self) -> str:
        """The distribution as `name==version`."""
        return f"{self.dist}=={self.version}"
