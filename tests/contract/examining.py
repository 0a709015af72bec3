"""Run the conformance kit as its users do: in a process of its own, and read its report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tunefleet_core.plugins.conformance_report import Report

PLUGIN_DATA = Path(__file__).resolve().parents[1] / "plugin_data"


def examine(
    folder: Path, profile: dict[str, Any], *, only: str = "", suite: str = "TrainerConformance"
) -> Report:
    """Return the report on a backend."""
    file = folder / "conformance.json"
    command = [sys.executable, "-m", "tunefleet_core.testing.conformance", "--profile", json.dumps(profile)]
    command += ["--suite", suite, "--only", only, "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert file.exists(), done.stdout + done.stderr
    return Report.from_json(file.read_text())


def test_name(name: str) -> str:
    """Return a test's name without its transport."""
    return name.partition("[")[0]
