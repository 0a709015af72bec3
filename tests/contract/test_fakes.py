"""Who tests the testers: seven broken backends, each of which must fail exactly its own test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from examining import examine, test_name
from fakes import FAKES

test_name.__test__ = False  # type: ignore[attr-defined]
_HEALTHY = "test_a_working_run_can_be_cancelled"


def profile(name: str) -> dict[str, Any]:
    worker = [sys.executable, str(Path(__file__).with_name("fakes.py")), name, "--socket", "{socket}"]
    worker += ["--lease-seconds", "{lease_seconds}", "--owner-pid", "{owner_pid}"]
    return {"backend": "echo", "command": worker, "limit_seconds": 24.0}


@pytest.mark.parametrize("name", sorted(FAKES))
def test_a_fake_fails_the_test_of_its_fault(name: str, tmp_path: Path) -> None:
    fault = FAKES[name].fails
    report = examine(tmp_path, profile(name), only=f"{fault} or {_HEALTHY}")
    assert [test_name(item) for item in report.failed] == [fault]
    assert [test_name(item) for item in report.passed] == [_HEALTHY]


@pytest.mark.slow  # the whole kit, seven times
@pytest.mark.parametrize("name", sorted(FAKES))
def test_a_fake_fails_nothing_else(name: str, tmp_path: Path) -> None:
    report = examine(tmp_path, profile(name))
    assert [test_name(item) for item in report.failed] == [FAKES[name].fails]
    assert len(report.passed) > 60
