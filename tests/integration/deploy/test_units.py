"""The units that `deploy/` ships: their commands exist, and a real systemd runs a fleet by them."""

from __future__ import annotations

import json
import os
import plistlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fleet_under_systemd import STEPS, UNITS

from tunefleet_cli.main import cli
from tunefleet_services.local import UpOptions

_DEPLOY = UNITS.parent
_PLIST = _DEPLOY / "launchd" / "tunefleet.plist"
_MEMBERS = ("trainer", "server", "gateway")
_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def commands() -> Iterator[tuple[Sequence[str], float]]:
    """Yield the words of each command that a unit runs, and the seconds it has from TERM to KILL."""
    for unit in sorted(UNITS.glob("*.service")):
        said = dict(line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line[1:])
        words = said["ExecStart"].split()
        for kind in _MEMBERS if "%i" in words else ("",):
            yield [kind if word == "%i" else word for word in words], float(said["TimeoutStopSec"])
    agent = plistlib.loads(_PLIST.read_bytes())
    yield agent["ProgramArguments"], float(agent["ExitTimeOut"])


def test_each_unit_runs_a_command_that_there_is_and_gives_it_time_to_save() -> None:
    found = list(commands())
    assert len(found) == 1 + len(_MEMBERS) + 1
    for (program, *words), seconds in found:
        assert program.endswith("/tunefleet/.venv/bin/tunefleet")
        context = cli.make_context("tunefleet", [*words, "--help"], resilient_parsing=True)
        assert isinstance(cli.get_command(context, words[0]), click.Command), words
        assert seconds > UpOptions(state_folder=Path()).stop_seconds


@pytest.mark.slow  # a manager of its own, and three starts of a fleet
@pytest.mark.timeout(400)
def test_a_fleet_under_systemd_saves_at_a_stop_and_outlives_a_crash() -> None:
    if not Path("/lib/systemd/systemd").exists() or shutil.which("systemctl") is None:
        pytest.skip(reason="needs systemd, which is not installed here")
    if subprocess.run([*_NAMESPACES, "true"], capture_output=True, check=False).returncode:
        pytest.skip(reason="needs namespaces of its own, which only root may make here")
    root = Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))
    try:
        program = Path(__file__).with_name("fleet_under_systemd.py")
        done = subprocess.run(
            [*_NAMESPACES, sys.executable, str(program), str(root)],
            capture_output=True,
            text=True,
            check=False,
            timeout=350,
            env={name: value for name, value in os.environ.items() if not name.startswith("TUNEFLEET_")},
        )
        told = (root / "systemd.log").read_text() + (root / "up.log").read_text()
        assert done.returncode == 0, done.stderr + told
        seen = json.loads(done.stdout)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    assert seen["stopped"] == {"result": "success", "left": []}
    assert seen["started_again"] == 1
    assert seen["outcomes"][0] == "ATTEMPT_OUTCOME_INTERRUPTED"
    assert seen["state"] == "JOB_STATE_SUCCEEDED"
    assert sorted(set(seen["steps"])) == list(range(1, STEPS + 1))  # on a busy machine a lease may end
    assert seen["left"] == []
