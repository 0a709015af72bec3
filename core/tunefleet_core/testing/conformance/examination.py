"""Examine a backend without a test file: what `tunefleet plugins check` runs.

pytest does the work, with no configuration of anybody's and the class below.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tunefleet_core.plugins.conformance_report import Report
from tunefleet_core.testing.conformance.bench import Bench
from tunefleet_core.testing.conformance.profile import Profile

__all__ = ["Recorder", "examine"]

_MODULE = """
from tunefleet_core.testing.conformance import {suite}, Profile

class TestBackend({suite}):
    profile = Profile(**{profile!r})
"""


class Recorder:
    """A plugin of pytest that keeps outcomes, and says of each test that it is done."""

    def __init__(self, report: Report, progress: Callable[[str, str], None]) -> None:
        self._report = report
        self._progress = progress
        self._done: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a test went; a fault of its set-up counts as its own."""
        name = report.nodeid.rpartition("::")[2]
        if report.failed:
            self._report.failed.setdefault(name, _first_line(report))
            outcome = "failed"
        elif report.skipped and hasattr(report, "wasxfail"):
            self._report.xfailed[name] = str(getattr(report, "wasxfail", "")).removeprefix("reason: ")
            outcome = "xfailed"
        elif report.skipped:
            self._report.skipped[name] = _skip_reason(report)
            outcome = "skipped"
        elif report.when == "call":
            self._report.passed.append(name)
            outcome = "passed"
        else:
            return
        if name not in self._done:
            self._done.add(name)
            self._progress(name, outcome)
        if outcome == "failed" and name in self._report.passed:
            self._report.passed.remove(name)  # its tear-down failed

    @pytest.fixture(autouse=True)
    def _note_times(self, request: pytest.FixtureRequest) -> object:
        yield
        bench = request.node.funcargs.get("bench")
        if isinstance(bench, Bench):
            self._report.seconds.update(bench.times)
            self._report.plugin = bench.manifest.plugin


def examine(
    profile: Mapping[str, object],
    *,
    suite: str = "BackendConformance",
    junit: Path | None = None,
    only: str = "",
    progress: Callable[[str, str], None] = lambda name, outcome: None,
) -> Report:
    """Run every suite on a backend; blocks for seconds to minutes.

    Args:
        profile: Arguments of a `Profile`, plain values.
        suite: Name of the kit's class to run.
        junit: Where to write a JUnit report.
        only: An expression as after pytest's `-k`.
        progress: Told the name and the outcome of each test.

    Raises:
        ValueError: the profile is wrong.
    """
    checked = Profile(**profile)  # pyright: ignore[reportArgumentType]  # it checks them itself
    report = Report(backend=checked.backend)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "test_backend.py"
        file.write_text(_MODULE.format(suite=suite, profile=dict(profile)))
        run_files([file], report, junit=junit, only=only, progress=progress)
    return report


def run_files(
    files: list[Path],
    report: Report,
    *,
    junit: Path | None = None,
    only: str = "",
    progress: Callable[[str, str], None] = lambda name, outcome: None,
) -> int:
    """Run test files under no configuration but the kit's, and note how it went."""
    root = files[0].parent
    # An empty configuration of our own: that of the folder we happen to be in is not meant for this.
    configuration = Path(tempfile.mkdtemp()) / "pytest.ini"
    configuration.write_text("[pytest]\nxfail_strict = true\nmarkers =\n    slow: takes long\n")
    arguments = [
        "-c", str(configuration), "--rootdir", str(root), "-p", "no:cacheprovider",
        "-p", "no:terminal", "-p", "no:asyncio", "--import-mode=importlib", *map(str, files),
    ]  # fmt: skip
    arguments += ["--junitxml", str(junit.absolute())] if junit else []
    arguments += ["-k", only] if only else []
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads are slower on models this small
    try:
        code = int(pytest.main(arguments, plugins=[Recorder(report, progress)]))
        if code in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR):
            raise RuntimeError(f"pytest could not run the kit (exit {code})")
        return code
    finally:
        configuration.unlink()
        configuration.parent.rmdir()


def _first_line(report: pytest.TestReport) -> str:
    text = report.longreprtext.splitlines()
    said = [line[1:].strip() for line in text if line.startswith("E ")]
    return (said or text[-1:] or ["failed"])[0]


def _skip_reason(report: pytest.TestReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    return reason.removeprefix("Skipped: ")
