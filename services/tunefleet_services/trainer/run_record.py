"""What a trainer keeps on disk about an attempt, so that its next life can adopt it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunefleet.fleet.v1.fleet_pb2 import Assignment
from tunefleet_core.artifacts import write_whole_file
from tunefleet_core.errors import TunefleetError
from tunefleet_core.worker.hosted_run import saved_checkpoints
from tunefleet_services.hosts import HostRecord

__all__ = ["RunFolder", "find_runs", "kept_assignments"]

_RECORD = "run.json"
_ASSIGNMENT = "assignment.pb"
_INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """The folder of one attempt below the trainer's `runs/`."""

    path: Path

    @classmethod
    def of(cls, runs: Path, assignment: Assignment) -> RunFolder:
        """Return the folder of an assignment."""
        return cls(path=runs / f"{assignment.job_uid}-{assignment.attempt}")

    def prepare(self, assignment: Assignment) -> None:
        """Make the folder and keep the assignment."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole_file(self.path / _ASSIGNMENT, assignment.SerializeToString())
        self.note_adopted()

    def note_interrupted(self) -> None:
        """Keep that the service was stopped in order while the attempt was at work."""
        # There is no folder yet, or no space: its next life then takes the end for a failure.
        with suppress(OSError, TunefleetError):
            write_whole_file(self.path / _INTERRUPTED, b"")

    def note_adopted(self) -> None:
        """Forget that: the attempt goes on with a service that works."""
        (self.path / _INTERRUPTED).unlink(missing_ok=True)

    def is_interrupted(self) -> bool:
        """Return whether that was kept, by an earlier life."""
        return (self.path / _INTERRUPTED).exists()

    def keep_host(self, record: HostRecord) -> None:
        """Keep which host works here, before it is told to."""
        write_whole_file(self.path / _RECORD, json.dumps(record.to_json()).encode())

    def assignment(self) -> Assignment:
        """Return the assignment that was kept."""
        return Assignment.FromString((self.path / _ASSIGNMENT).read_bytes())

    def host(self) -> HostRecord | None:
        """Return the host that was kept; None if the trainer died before there was one."""
        try:
            content: dict[str, Any] = json.loads((self.path / _RECORD).read_text())
        except FileNotFoundError:
            return None
        return HostRecord(**content)

    def drop_checkpoints(self, committed: Set[int], keep: int) -> None:
        """Remove committed checkpoints but the newest `keep`; the artifact store has them all."""
        saved = [item for item in saved_checkpoints(self.path) if item.step in committed]
        for item in saved[: max(0, len(saved) - keep)]:
            shutil.rmtree(self.path / item.path, ignore_errors=True)

    def remove(self) -> None:
        """Remove everything of the attempt."""
        shutil.rmtree(self.path, ignore_errors=True)


def find_runs(runs: Path) -> list[RunFolder]:
    """Return the attempts that an earlier life of the trainer left; remove folders that are none.

    A life that ended while it made or removed a folder leaves one without an assignment.
    """
    found: list[RunFolder] = []
    for path in sorted(runs.glob("*/")):
        if (path / _ASSIGNMENT).is_file():
            found.append(RunFolder(path=path))
        else:
            shutil.rmtree(path, ignore_errors=True)
    return found


def kept_assignments(runs: Path) -> list[Assignment]:
    """Return what a trainer holds, seen from another process: nothing is changed."""
    found: list[Assignment] = []
    for path in sorted(runs.glob(f"*/{_ASSIGNMENT}")):
        with suppress(FileNotFoundError):  # removed meanwhile
            found.append(Assignment.FromString(path.read_bytes()))
    return found
