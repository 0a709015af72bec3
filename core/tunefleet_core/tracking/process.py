"""The process of a tracker: it reads what a run reports and tells the tracker's library.

    python -m tunefleet_core.tracking.process

Commands come on standard input, reports go to standard output. What the library prints goes
nowhere: it may hold keys. Whatever it raises is told once, without them, and ends this process.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import BinaryIO, NoReturn, cast

from tunefleet.backend.v1.tracker_pb2 import TrackedRun, TrackerCommand, TrackerReport
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet_core.chat_endpoint import secret_of
from tunefleet_core.tracking.contract import Tracker, numbers_of
from tunefleet_core.worker.framing import pack, read_frame

__all__ = ["main"]

_LONGEST = 300
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


class _Terminated(BaseException):
    """The attempt is being ended. No Exception: a library that catches those must not catch this."""


def main() -> None:
    """Run the process."""
    reports = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not break a frame
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is the supervisor's to handle
    signal.signal(signal.SIGTERM, _terminate)

    def tell(report: TrackerReport) -> None:
        reports.write(pack(report))
        reports.flush()

    code = 0
    key = ""
    try:
        command = read_frame(sys.stdin.buffer, TrackerCommand)
        if command is not None:
            spec = command.begin.program.tracker
            key = secret_of(spec.api_key, field=f"the api_key of the tracker '{spec.name}'")
            _follow(command.begin, key, sys.stdin.buffer, tell)
    except _Terminated:
        code = 1
    except Exception as error:  # the edge of plugin code
        code = 1
        tell(TrackerReport(failed=_cause(error, key)))
    os._exit(code)  # libraries leave threads that would delay a normal exit


def _follow(run: TrackedRun, key: str, commands: BinaryIO, tell: Callable[[TrackerReport], None]) -> None:
    module, _, attribute = run.program.entry.partition(":")
    make = cast("Callable[[str], Tracker]", getattr(importlib.import_module(module), attribute))
    tracker = make(run.program.tracker.name)
    found = tracker.begin(run, key)
    outcome = AttemptOutcome.ATTEMPT_OUTCOME_LOST  # unless the host says otherwise before it is gone
    try:
        tell(TrackerReport(found=found))
        while (command := read_frame(commands, TrackerCommand)) is not None:
            if command.WhichOneof("command") == "end":
                outcome = command.end
                break
            tracker.keep(command.metrics.step, numbers_of(command.metrics))
    except _Terminated:
        outcome = AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED
    tracker.end(outcome)


def _cause(error: Exception, key: str) -> str:
    """Return the first line of an error without keys, and not all of a long one."""
    text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if key:
        text = text.replace(key, "[redacted]")
    text = _CREDENTIALS.sub("[redacted]@", text)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Terminated


if __name__ == "__main__":
    main()
