"""Trackers for tests: one that keeps what it is told in a file, and some at fault."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from tunefleet.backend.v1.tracker_pb2 import TrackedRun
from tunefleet.job.v1.event_pb2 import AttemptOutcome


def tracker(name: str) -> FileTracker:
    return FileTracker(name)


class FileTracker:
    def __init__(self, fault: str) -> None:
        self._fault = fault

    def begin(self, run: TrackedRun, key: str) -> str:
        print("a library that prints its key", key)
        if self._fault == "refused":
            raise PermissionError(f"{key} is refused by https://ada:{key}@host/api\nand more")
        self._file = Path(run.program.folder) / f"{run.name}.jsonl"
        self._write(name=run.name, key=key, spec=json.loads(run.spec_json))
        return f"see {self._file.name}"

    def keep(self, step: int, numbers: Mapping[str, float]) -> None:
        self._write(step=step, numbers=dict(numbers))
        if step < 2:
            return
        if self._fault == "raises":
            raise ValueError("no room")
        if self._fault == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "hangs":
            time.sleep(600)

    def end(self, outcome: AttemptOutcome.ValueType) -> None:
        self._write(outcome=AttemptOutcome.Name(outcome))

    def _write(self, **content: object) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(content) + "\n")
