"""A part of a run in a process of its own: its result, its error, its end."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet_core.backend import RunContext, RunStopped
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.worker.aside import run_aside

_MODULE = """
import os, time
from pathlib import Path
from tunefleet_core.errors import TunefleetError
from tunefleet_core.worker.aside import serve_aside

def work(task):
    if task["do"] == "refuse":
        raise TunefleetError.field("export.quantize.variant", "is not known")
    if task["do"] == "break":
        raise ValueError("a library's own words")
    if task["do"] == "die":
        os._exit(7)
    if task["do"] == "wait":
        Path(task["pid"]).write_text(str(os.getpid()))
        time.sleep(600)
    return {"sum": sum(task["numbers"]), "seen": os.environ.get("SEEN", "")}

serve_aside(work)
"""


@dataclass
class _Context:
    """What `run_aside` looks at of a run."""

    pid_file: Path | None = None
    mode: StopMode.ValueType = StopMode.STOP_MODE_CANCEL

    def stop_requested(self) -> StopMode.ValueType:
        is_there = self.pid_file is not None and self.pid_file.is_file() and self.pid_file.read_text()
        return self.mode if is_there else StopMode.STOP_MODE_UNSPECIFIED


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "aside_sample.py").write_text(_MODULE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "path"), *filter(None, sys.path)]))


def _run(tmp_path: Path, context: _Context, **task: object) -> dict[str, Any]:
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    try:
        return run_aside(
            cast("RunContext", context), "aside_sample", task, scratch=scratch, environment={"SEEN": "yes"}
        )
    finally:
        assert not list(scratch.iterdir()), "it leaves nothing in the scratch folder"


def test_a_result_comes_back(tmp_path: Path) -> None:
    assert _run(tmp_path, _Context(), do="add", numbers=[1, 2, 3]) == {"sum": 6, "seen": "yes"}


def test_an_error_is_raised_again_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(TunefleetError, match="is not known") as caught:
        _run(tmp_path, _Context(), do="refuse")
    assert caught.value.reason is Reason.FIELD_INVALID


def test_an_unexpected_error_is_classed(tmp_path: Path) -> None:
    with pytest.raises(TunefleetError) as caught:
        _run(tmp_path, _Context(), do="break")
    assert caught.value.reason is Reason.INTERNAL


def test_a_process_that_dies_is_named_with_its_exit_code(tmp_path: Path) -> None:
    with pytest.raises(TunefleetError, match="exit code 7") as caught:
        _run(tmp_path, _Context(), do="die")
    assert caught.value.reason is Reason.BACKEND_FAILED


def test_a_stop_ends_the_process(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(RunStopped):
        _run(tmp_path, _Context(pid_file=pid_file), do="wait", pid=str(pid_file))
    assert not psutil.pid_exists(int(pid_file.read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing tells a child that its parent died")
def test_the_process_dies_with_the_one_that_started_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    parent = os.fork()
    if not parent:
        try:
            _run(tmp_path, _Context(), do="wait", pid=str(pid_file))
        finally:
            os._exit(1)
    while not (pid_file.is_file() and pid_file.read_text()):
        assert os.waitpid(parent, os.WNOHANG) == (0, 0), "it ended before its work began"
        time.sleep(0.02)
    child = psutil.Process(int(pid_file.read_text()))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert not psutil.wait_procs([child], timeout=30)[1]
