"""`tunefleet plugins new`, `check` and `remove`, as their users type them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from examining import PLUGIN_DATA
from made_plugins import installed_beside

from tunefleet_core.plugins.conformance_report import KIT_VERSION, Report


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TUNEFLEET_")}
    return {**kept, "TUNEFLEET_STATE": str(tmp_path / "state")}


def tunefleet(
    environment: dict[str, str], *arguments: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunefleet_cli", "plugins", *arguments]
    return subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def test_new_writes_a_plugin_that_check_holds_to_the_contract(
    environment: dict[str, str], tmp_path: Path
) -> None:
    written = tunefleet(environment, "new", "metronome", cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    assert "metronome/tunefleet_metronome/rank.py" in written.stdout.splitlines()
    assert "tunefleet plugins install ./metronome" in written.stderr
    source = tmp_path / "metronome"
    missing = tunefleet(environment, "check", str(source))
    assert missing.returncode != 0
    assert f"tunefleet plugins install {source}" in missing.stderr

    site = installed_beside(source, tmp_path / "site")
    found = {**environment, "PYTHONPATH": os.pathsep.join((str(source), str(site)))}
    only = ("--only", "worker and (manifest or unknown_run or run_ends)")
    checked = tunefleet(found, "check", str(source), *only, "--report", str(tmp_path / "report.json"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "metronome is conformant" in checked.stderr
    report = Report.from_json((tmp_path / "report.json").read_text())
    assert (report.backend, report.plugin, report.kit) == (
        "metronome",
        "tunefleet-metronome==0.1.0",
        KIT_VERSION,
    )
    assert "test_a_run_ends_with_an_output[worker]" in report.passed


def test_a_broken_backend_is_told_and_the_exit_code_says_so(
    environment: dict[str, str], tmp_path: Path
) -> None:
    assert tunefleet(environment, "new", "faulty", cwd=tmp_path).returncode == 0
    source = tmp_path / "faulty"
    rank = source / "tunefleet_faulty" / "rank.py"
    rank.write_text(
        rank.read_text().replace(
            "return RunOutput(", "raise ValueError('out of luck')\n        return RunOutput("
        )
    )
    site = installed_beside(source, tmp_path / "site")
    found = {**environment, "PYTHONPATH": os.pathsep.join((str(source), str(site)))}
    checked = tunefleet(found, "check", "faulty", "--only", "worker and run_ends_with", "--badge")
    assert checked.returncode == 1
    assert "test_a_run_ends_with_an_output[worker]" in checked.stderr
    assert "out of luck" in checked.stderr
    assert checked.stdout.strip().endswith("failing")


def test_a_backend_in_any_language_is_checked_over_its_socket(
    environment: dict[str, str], tmp_path: Path
) -> None:
    folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/tf-XXXXXX"], text=True).strip())
    worker = [sys.executable, str(PLUGIN_DATA / "minimal_worker.py"), "--socket", str(folder / "s")]
    process = subprocess.Popen([*worker, "--lease-seconds", "60"])
    try:
        while not (folder / "s").exists():
            assert process.poll() is None
            time.sleep(0.05)
        junit = tmp_path / "out.xml"
        options = ("--endpoint", f"unix://{folder / 's'}", "--junit", str(junit), "--badge", "--json")
        checked = tunefleet(environment, "check", *options, "--only", "manifest or unknown_run")
    finally:
        process.terminate()
        process.wait(20)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    document = json.loads(checked.stdout.splitlines()[0])
    assert document["kind"] == "tunefleet.Conformance"
    assert document["data"]["backend"] == "minimal"
    assert "test_its_manifest_is_complete[endpoint]" in document["data"]["passed"]
    suite = ElementTree.parse(junit).getroot().find("testsuite")
    assert suite is not None
    assert suite.get("failures") == "0"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("check",), "Name a plugin, or give --endpoint."),
        (("check", "echo", "--endpoint", "unix:///x"), "Name a plugin, or give --endpoint."),
        (("check", "no-such-plugin"), "'no-such-plugin' is not installed"),
        (("check", "--endpoint", "unix:///tmp/no-such-socket"), "Nothing answers the contract"),
        (("remove", "no-such-plugin"), "'no-such-plugin' is not installed"),
        (("new", "No Name"), "is no lower-case slug"),
    ],
)
def test_what_cannot_be_done_says_why_and_what_next(
    environment: dict[str, str], arguments: tuple[str, ...], said: str
) -> None:
    ended = tunefleet(environment, *arguments)
    assert ended.returncode not in (0, None)
    assert said in ended.stderr
    assert "Next step:" in ended.stderr
    assert "Traceback" not in ended.stderr
