"""The rank process: where a run happens. Loads torch or mlx, never gRPC.

    python -m tunefleet_core.worker.rank --entry module:Class --read-fd N --write-fd M

It warms up, tells so, then waits for one order. A run is its last deed: the
process exits, and with it every byte of device memory. When the pipe from the
host ends, the host is dead, and so is this process at once.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from tunefleet.backend.v1.rank_pb2 import RankAudit, RankCommand, RankEnd, RankReport, RankWarm
from tunefleet.backend.v1.run_pb2 import RunOrder, StopMode
from tunefleet.job.v1.event_pb2 import (
    AttemptOutcome,
    CheckpointSaved,
    JobEvent,
    Metrics,
    Notice,
    PhaseChanged,
    Preflight,
    RunPhase,
    Sample,
)
from tunefleet_core.artifacts.writing import write_whole_folder
from tunefleet_core.backend.contract import Rank, RunStopped
from tunefleet_core.errors import Reason, TunefleetError, from_exception, status_from_error
from tunefleet_core.timestamps import timestamp_now
from tunefleet_core.worker.framing import FrameError, pack, read_frame

__all__ = [
    "PipeRunContext",
    "RankPipe",
    "checkpoint_name",
    "die_with_parent",
    "load_rank",
    "main",
    "open_pipe",
    "serve",
    "warm_rank",
]

_ORPHANED_EXIT = 3
_PR_SET_PDEATHSIG = 1


def checkpoint_name(step: int) -> str:
    """Return the folder of a checkpoint relative to the run's work folder."""
    return f"checkpoints/step-{step:08d}"


class PipeRunContext:
    """The RunContext of a rank process: everything told goes down the pipe."""

    def __init__(self, order: RunOrder, pipe: RankPipe) -> None:
        self._order = order
        self._is_first = order.place.rank == 0  # of several processes the first one speaks for all
        self._pipe = pipe
        self._saves_answered = 0
        self._work_dir = Path(order.work_dir)

    @property
    def order(self) -> RunOrder:
        """What to run."""
        return self._order

    def enter(self, phase: RunPhase.ValueType) -> None:
        """Tell a phase."""
        self._tell(JobEvent(phase_changed=PhaseChanged(phase=phase)))

    def metrics(self, metrics: Metrics) -> None:
        """Tell the numbers of a step."""
        self._tell(JobEvent(metrics=metrics))

    def preflight(self, found: Preflight) -> None:
        """Tell what was tried before the first step."""
        self._tell(JobEvent(preflight=found))

    def sample(self, step: int, prompt: str, answer: str) -> None:
        """Tell an answer to a fixed prompt."""
        self._tell(JobEvent(sample=Sample(step=step, prompt=prompt, answer=answer)))

    def notice(self, text: str, *, hint: str = "", severity: str = "warning") -> None:
        """Tell a person something."""
        self._tell(JobEvent(notice=Notice(severity=severity, text=text, hint=hint)))

    def tell(self, event: JobEvent) -> None:
        """Tell any other event."""
        self._tell(event)

    @contextmanager
    def checkpoint(self, step: int) -> Generator[Path]:
        """Write a checkpoint, whole or not at all."""
        self._require_first()
        self.enter(RunPhase.RUN_PHASE_SAVING)
        asked = self._pipe.saves_asked  # those that come while this one is written want another
        with write_whole_folder(self._work_dir / checkpoint_name(step)) as folder:
            yield folder
        self._saves_answered = asked
        self._tell(JobEvent(checkpoint_saved=CheckpointSaved(step=step, path=checkpoint_name(step))))
        self.enter(RunPhase.RUN_PHASE_WORKING)

    @contextmanager
    def writing_output(self) -> Generator[Path]:
        """Write the output, whole or not at all."""
        self._require_first()
        self.enter(RunPhase.RUN_PHASE_SAVING)
        with write_whole_folder(self._work_dir / "output") as folder:
            yield folder

    def save_requested(self) -> bool:
        """Return whether a checkpoint was asked for that no checkpoint has answered yet."""
        return self._pipe.saves_asked > self._saves_answered

    def stop_requested(self) -> StopMode.ValueType:
        """Return how to stop, UNSPECIFIED to go on."""
        return self._pipe.stop_mode

    def _require_first(self) -> None:
        if not self._is_first:
            raise RuntimeError("of several rank processes only the first one writes checkpoints and output")

    def _tell(self, event: JobEvent) -> None:
        if not self._is_first:
            return
        event.attempt = self._order.attempt
        event.create_time.CopyFrom(timestamp_now())
        self._pipe.send(RankReport(event=event))


class RankPipe:
    """Both directions of the pipe; a thread reads, so that a stop arrives while a run works."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO) -> None:
        self._reader = reader
        self._writer = writer
        self._lock = threading.Lock()
        self.stop_mode: StopMode.ValueType = StopMode.STOP_MODE_UNSPECIFIED
        self.saves_asked = 0
        self.commands: queue.SimpleQueue[RankCommand] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="host-pipe", daemon=True).start()

    def send(self, report: RankReport) -> None:
        with self._lock:
            self._writer.write(pack(report))
            self._writer.flush()

    def _read(self) -> None:
        try:
            while (command := read_frame(self._reader, RankCommand)) is not None:
                kind = command.WhichOneof("command")
                if kind == "stop":
                    self.stop_mode = command.stop.mode
                elif kind == "save":
                    self.saves_asked = max(self.saves_asked, command.save.number)
                else:
                    self.commands.put(command)
        except (FrameError, OSError):
            traceback.print_exc()
        os._exit(_ORPHANED_EXIT)  # no host, no owner: nothing may keep the device


def main() -> None:
    """Run the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entry", required=True, help="module:Class of the rank")
    parser.add_argument("--read-fd", type=int, required=True)
    parser.add_argument("--write-fd", type=int, required=True)
    parser.add_argument("--warm", action="store_true", help="import what a run needs before work arrives")
    arguments = parser.parse_args()
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is the supervisor's to handle
    pipe = open_pipe(arguments.read_fd, arguments.write_fd)
    start = time.monotonic()
    rank = load_rank(arguments.entry)
    if arguments.warm:
        warm_rank(rank)
    serve(rank, pipe, is_warm=arguments.warm, import_seconds=time.monotonic() - start)


def open_pipe(read_fd: int, write_fd: int) -> RankPipe:
    """Return the pipe from and to the host. From here on this process has a second thread."""
    return RankPipe(os.fdopen(read_fd, "rb"), os.fdopen(write_fd, "wb"))


def load_rank(entry: str) -> Rank:
    """Return a new rank of the class that `module:Class` names."""
    module, _, attribute = entry.partition(":")
    return cast("Rank", getattr(importlib.import_module(module), attribute)())


def serve(
    rank: Rank,
    pipe: RankPipe,
    *,
    is_warm: bool,
    import_seconds: float,
    after_run: Callable[[], None] | None = None,
) -> NoReturn:
    """Say that work may come, answer audits, do one run, exit."""
    pipe.send(RankReport(warm=RankWarm(import_seconds=import_seconds)))
    while True:
        command = pipe.commands.get()
        if command.WhichOneof("command") == "run":
            pipe.send(RankReport(end=_run(rank, command.run, pipe, is_warm=is_warm)))
            if after_run is not None:
                after_run()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)  # libraries leave threads that would delay a normal exit
        pipe.send(RankReport(audit=_audit(rank, command)))


def warm_rank(rank: Rank) -> None:
    """Import with the collector of garbage off: what imports leave is none, and it looks again and again.

    On a stack of torch, transformers, peft and trl that is a quarter of the time of the imports.
    """
    gc.disable()
    try:
        rank.warm()
    finally:
        gc.enable()


def _run(rank: Rank, order: RunOrder, pipe: RankPipe, *, is_warm: bool) -> RankEnd:
    context = PipeRunContext(order, pipe)
    _take_place(order)
    try:
        if not is_warm and order.resolved_spec.spec.HasField("train"):
            warm_rank(rank)  # it would import all that anyway, with the collector on
        output = rank.run(context)
    except RunStopped:
        saved = pipe.stop_mode == StopMode.STOP_MODE_SAVE
        return RankEnd(
            outcome=AttemptOutcome.ATTEMPT_OUTCOME_PAUSED
            if saved
            else AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED
        )
    except Exception as error:  # the edge of plugin code: class it, tell it, keep the traceback in the log
        return RankEnd(
            outcome=AttemptOutcome.ATTEMPT_OUTCOME_FAILED, error=status_from_error(_classed(error))
        )
    return RankEnd(outcome=AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED, output=output)


def _take_place(order: RunOrder) -> None:
    """Say in the environment which of several processes this is, in the words of torchrun."""
    if order.HasField("place"):
        rank, world_size = str(order.place.rank), str(order.place.world_size)
        os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world_size, LOCAL_WORLD_SIZE=world_size)
        # No port: they meet in a file. Libraries that insist on an address get the host's own.
        os.environ.update(MASTER_ADDR="127.0.0.1")


def _audit(rank: Rank, command: RankCommand) -> RankAudit:
    try:
        return RankAudit(result=rank.audit(command.audit))
    except Exception as error:  # the edge of plugin code
        return RankAudit(error=status_from_error(_classed(error)))


def _classed(error: Exception) -> TunefleetError:
    classed = from_exception(error)
    if classed is not error:
        traceback.print_exc()
    if classed.reason is Reason.INTERNAL:
        return TunefleetError(
            Reason.BACKEND_FAILED,
            f"The backend failed: {classed.message}",
            hint="Read the traceback: tunefleet jobs logs NAME",
            metadata=classed.metadata,
        )
    return classed


def die_with_parent() -> None:
    """Ask Linux to kill this process when its host dies; elsewhere the pipe's end does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
