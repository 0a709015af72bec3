"""conformance.json: what a backend was examined for and how it went, for people and programs.

It stands apart from the kit that writes it: whoever shows a report needs no pytest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from tunefleet_core import CONTRACT_VERSION

__all__ = ["KIT_VERSION", "REPORT_NAME", "Report", "installed_report"]

KIT_VERSION = 1
"""Raised when a test is added or becomes stricter; a third party pins it with tunefleet's version."""

REPORT_NAME = "conformance.json"


@dataclass(slots=True, kw_only=True)
class Report:
    """The outcome of an examination. Names are those of tests with their transport."""

    backend: str
    plugin: str = ""
    kit: int = KIT_VERSION
    contract: int = CONTRACT_VERSION
    passed: list[str] = field(default_factory=list[str])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    xfailed: dict[str, str] = field(default_factory=dict[str, str])
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    """What the performance smoke measured; reported, never judged."""

    @property
    def is_conformant(self) -> bool:
        """Whether it passed: something ran, and nothing failed."""
        return bool(self.passed) and not self.failed

    @property
    def sentence(self) -> str:
        """The outcome for people."""
        parts = [f"{len(self.passed)} passed", f"{len(self.skipped)} skipped"]
        parts += [f"{len(self.xfailed)} known to fail"] if self.xfailed else []
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        return f"{', '.join(parts)} (kit {self.kit}, contract {self.contract})"

    def to_fields(self) -> dict[str, object]:
        """Return the report as JSON values, sorted."""
        return {
            "kit": self.kit,
            "contract": self.contract,
            "backend": self.backend,
            "plugin": self.plugin,
            "passed": sorted(self.passed),
            "failed": dict(sorted(self.failed.items())),
            "skipped": dict(sorted(self.skipped.items())),
            "xfailed": dict(sorted(self.xfailed.items())),
            "seconds": {name: round(value, 4) for name, value in sorted(self.seconds.items())},
        }

    def to_json(self) -> str:
        """Return the file's content; equal outcomes give equal bytes but for the times."""
        return json.dumps(self.to_fields(), indent=1) + "\n"

    def badge(self) -> str:
        """Return one line of Markdown that says so in a README."""
        word = "passing" if self.is_conformant else "failing"
        return f"**tunefleet conformance** kit {self.kit}, contract {self.contract}: {word}"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read a file's content. Raises ValueError if it is none."""
        content: Mapping[str, Any] = json.loads(text)
        try:
            return cls(
                backend=str(content["backend"]),
                plugin=str(content.get("plugin", "")),
                kit=int(content["kit"]),
                contract=int(content["contract"]),
                passed=list(content["passed"]),
                failed=dict(content.get("failed", {})),
                skipped=dict(content["skipped"]),
                xfailed=dict(content["xfailed"]),
                seconds=dict(content.get("seconds", {})),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no conformance report: {error!r}") from error


def installed_report(name: str) -> Report | None:
    """Return the report that a distribution ships inside its package; None if it has none."""
    try:
        files = distribution(name).files or []
    except PackageNotFoundError:
        return None
    for file in files:
        if file.name == REPORT_NAME:
            try:
                return Report.from_json(Path(str(file.locate())).read_text())
            except (OSError, ValueError):
                return None
    return None
