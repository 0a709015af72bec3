"""A backend that uses nothing of our Python base, held to the same contract."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from examining import PLUGIN_DATA, examine, test_name

test_name.__test__ = False  # type: ignore[attr-defined]
WORKER = [sys.executable, str(PLUGIN_DATA / "minimal_worker.py"), "--socket"]


@pytest.fixture
def endpoint() -> Iterator[str]:
    """A worker that somebody else has started."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        socket = Path(folder) / "s"
        process = subprocess.Popen([*WORKER, str(socket), "--lease-seconds", "60"])
        try:
            while not socket.exists():
                assert process.poll() is None
                time.sleep(0.05)
            yield f"unix://{socket}"
        finally:
            process.terminate()
            process.wait(20)


def command_profile() -> dict[str, Any]:
    return {"backend": "minimal", "command": [*WORKER, "{socket}", "--lease-seconds", "{lease_seconds}"]}


def test_it_passes_over_an_endpoint_that_runs_already(endpoint: str, tmp_path: Path) -> None:
    only = "manifest or idempot or again or cancel or refused or capability or resumed or events"
    report = examine(tmp_path, {"backend": "minimal", "endpoint": endpoint}, only=only)
    assert report.failed == {}
    assert len(report.passed) > 25
    assert all(name.endswith("[endpoint]") for name in report.passed)


def test_it_takes_everything_along_as_a_worker(tmp_path: Path) -> None:
    report = examine(tmp_path, command_profile(), only="worker and (leaves or takes or owns or prints)")
    assert report.failed == {}
    assert len(report.passed) >= 5


@pytest.mark.slow  # the whole kit
def test_it_passes_the_whole_kit(tmp_path: Path) -> None:
    report = examine(tmp_path, command_profile(), suite="BackendConformance")
    assert report.failed == {}
    assert report.is_conformant
    assert len(report.passed) > 65
