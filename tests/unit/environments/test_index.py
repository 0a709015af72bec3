"""Installs and removals of several processes follow each other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tunefleet_core.environments.layout import EnvironmentIndex

_ADD = """
import sys
from pathlib import Path
from tunefleet_core.environments.layout import Environment, EnvironmentIndex

index = EnvironmentIndex(Path(sys.argv[1]))
for number in range(25):
    with index.changing():
        index.add(f"{sys.argv[2]}-{number}", Environment(digest="d", python="p"))
"""
_HOLD = """
import sys
from pathlib import Path
from tunefleet_core.environments.layout import EnvironmentIndex

with EnvironmentIndex(Path(sys.argv[1])).changing():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.delenv("TUNEFLEET_ENVS", raising=False)


def test_two_processes_lose_no_entry(tmp_path: Path) -> None:
    running = [subprocess.Popen([sys.executable, "-c", _ADD, str(tmp_path), name]) for name in ("a", "b")]
    assert [process.wait() for process in running] == [0, 0]
    assert len(EnvironmentIndex(tmp_path).read()) == 50


def test_who_has_to_wait_is_told_and_goes_on_when_the_other_dies(tmp_path: Path) -> None:
    told: list[str] = []
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"

        def waits() -> None:
            told.append("waits")
            holder.kill()

        with EnvironmentIndex(tmp_path).changing(waits):
            assert told == ["waits"]
