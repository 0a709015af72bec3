"""Do a part of a run in a process of its own, which ends when the run is to stop.

For work that no rank can break off: minutes inside a library's C code, or weights that must
be loaded by a process that has loaded no others. Both sides are here. The rank calls

    result = run_aside(context, "tunefleet_mine.quantizing", {"source": "..."}, scratch=folder)

and the module, when it is run as a program, calls

    serve_aside(work)   # work(task) -> result

Task and result are JSON objects; an error arrives as the same TunefleetError.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from google.rpc.status_pb2 import Status

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet_core.backend.contract import RunContext, RunStopped
from tunefleet_core.errors import (
    Reason,
    TunefleetError,
    error_from_status,
    from_exception,
    status_from_error,
)

__all__ = ["run_aside", "serve_aside"]

_POLL_SECONDS = 0.05
_KILLED = -9
_TASK, _RESULT, _ERROR = "task.json", "result.json", "error.pb"


def run_aside(
    context: RunContext,
    module: str,
    task: Mapping[str, object],
    *,
    scratch: Path,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run a module of this environment to its end and return its result.

    Its output reaches the log of the run. The process dies with this one.

    Args:
        context: The run, which may be asked to stop.
        module: Module that calls `serve_aside`.
        task: What to do; a JSON object.
        scratch: An existing folder for what passes between both; nothing is left there.
        environment: Variables to set beside those of this process.

    Raises:
        RunStopped: the run was asked to stop; the process is gone.
        TunefleetError: what the module raised; OUT_OF_MEMORY or BACKEND_FAILED if it died.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix="aside-") as name:
        folder = Path(name)
        (folder / _TASK).write_text(json.dumps(task), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", module, name],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )
        try:
            while process.poll() is None:
                if context.stop_requested() != StopMode.STOP_MODE_UNSPECIFIED:
                    raise RunStopped(f"stopped during {module}")
                time.sleep(_POLL_SECONDS)
            return _result(folder, module, process.returncode)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def serve_aside(work: Callable[[Mapping[str, Any]], Mapping[str, object]]) -> None:
    """Do the task that `run_aside` left for this process, then end it. Never returns.

    What the work raises is classed here and raised again in the other process; the
    traceback of what nobody expected goes to the log.
    """
    from tunefleet_core.worker.rank import die_with_parent

    die_with_parent()
    folder = Path(sys.argv[1])
    try:
        task = cast("dict[str, Any]", json.loads((folder / _TASK).read_text(encoding="utf-8")))
        text = json.dumps(work(task))
    except Exception as error:  # the edge of this process
        if not isinstance(error, TunefleetError):
            sys.excepthook(type(error), error, error.__traceback__)
        (folder / _ERROR).write_bytes(status_from_error(from_exception(error)).SerializeToString())
    else:
        (folder / _RESULT).write_text(text, encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # libraries leave threads that would delay a normal exit


def _result(folder: Path, module: str, code: int) -> dict[str, Any]:
    if (folder / _ERROR).is_file():
        raise error_from_status(Status.FromString((folder / _ERROR).read_bytes()))
    if code or not (folder / _RESULT).is_file():
        raise TunefleetError(
            Reason.OUT_OF_MEMORY if code == _KILLED else Reason.BACKEND_FAILED,
            f"The process {module} ended with exit code {code}.",
            hint="Work on a host with more memory, or read the log: tunefleet jobs logs NAME",
            metadata={"module": module, "exit": str(code)},
        )
    return cast("dict[str, Any]", json.loads((folder / _RESULT).read_text(encoding="utf-8")))
