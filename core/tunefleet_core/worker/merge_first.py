"""Merge an adapter with the backend that knows how, before another one writes it in a format.

Each backend lives in an environment of its own, and what merges is proven there by the
numbers. So an exporter does not merge itself: it starts a rank of the merging backend,
in that one's environment, gives it the same order as a merge, and goes on with the whole
weights. The child dies with its parent and carries the marker of the attempt.
"""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tunefleet.backend.v1.rank_pb2 import RankCommand, RankEnd, RankReport
from tunefleet.backend.v1.run_pb2 import RankProgram, RunOrder, StopMode
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet_core.backend import RunContext, RunStopped
from tunefleet_core.errors import Reason, TunefleetError, error_from_status
from tunefleet_core.resolve import own_dtype
from tunefleet_core.worker.framing import FrameError, pack, read_frame

__all__ = ["whole_weights"]

_POLL_SECONDS = 0.05
_LEAVE_SECONDS = 10.0
_FOLDER = "merging"


@contextmanager
def whole_weights(context: RunContext) -> Generator[Path]:
    """Yield the folder of the model to export, as whole safetensors weights; read only.

    It is the base's own folder for a whole model. An adapter is merged into a folder of the
    run first, which is removed in the end; its `contract.json` holds the numbers of the
    tuned model on whole weights.

    Raises:
        RunStopped: the run was asked to stop; nothing is left.
        TunefleetError: what the merging backend says, and BACKEND_FAILED if its process died.

    Example:
        with whole_weights(context) as source, context.writing_output() as folder:
            convert(source, folder)
    """
    order = context.order
    if not order.adapter_dir:
        yield Path(order.resolved_spec.base.path)
        return
    if not order.merge_program.python:
        raise TunefleetError.field("merge_program", "an adapter is exported, and nobody is named to merge it")
    folder = Path(order.work_dir) / _FOLDER
    shutil.rmtree(folder, ignore_errors=True)  # an earlier life of this run may have left it half done
    folder.mkdir(parents=True)
    try:
        _run(_as_merge(order, folder), order.merge_program, context)
        yield folder / "output"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_merge(order: RunOrder, folder: Path) -> RunOrder:
    """Return the order that asks for the same model as whole weights in the base's own number type."""
    merge = RunOrder()
    merge.CopyFrom(order)
    merge.ClearField("merge_program")
    merge.ClearField(
        "device_ids"
    )  # weights are added on the CPU; the devices belong to who writes the format
    merge.work_dir = str(folder)
    resolved = merge.resolved_spec
    resolved.backend.CopyFrom(resolved.merge_backend)
    resolved.spec.backend = resolved.backend.name
    resolved.spec.ClearField("backend_options")  # those of the exporter
    resolved.spec.export.merge.dtype = own_dtype(resolved.base)
    return merge


def _run(order: RunOrder, program: RankProgram, context: RunContext) -> None:
    to_child_read, to_child_write = os.pipe()
    from_child_read, from_child_write = os.pipe()
    command = [
        *(program.python, "-m", "tunefleet_core.worker.rank", "--entry", program.rank_entry),
        *("--read-fd", str(to_child_read), "--write-fd", str(from_child_write)),
    ]
    try:
        # Its output is this process's own: it reaches the log of the run.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, pass_fds=(to_child_read, from_child_write)
        )
    except BaseException:
        os.close(to_child_write)
        os.close(from_child_read)
        raise
    finally:
        os.close(to_child_read)
        os.close(from_child_write)
    reports: queue.SimpleQueue[RankReport | None] = queue.SimpleQueue()
    reader = os.fdopen(from_child_read, "rb")
    thread = threading.Thread(target=_read, args=(reader, reports), name="merging-rank")
    thread.start()
    try:
        with os.fdopen(to_child_write, "wb") as writer:
            writer.write(pack(RankCommand(run=order)))
            writer.flush()
            end = _follow(context, reports)  # while the pipe is open: its end is the child's end
        _leave(process)
    except BrokenPipeError:  # it died before it read its order
        end = None
    finally:
        process.kill()
        code = process.wait()
        thread.join()
    _judge(end, code)


def _read(stream: BinaryIO, reports: queue.SimpleQueue[RankReport | None]) -> None:
    """Hand on every report, then None."""
    with stream:
        try:
            while (report := read_frame(stream, RankReport)) is not None:
                reports.put(report)
        except (FrameError, OSError):
            pass  # a child that died in the middle of a word: the None below says that it is gone
        finally:
            reports.put(None)


def _follow(context: RunContext, reports: queue.SimpleQueue[RankReport | None]) -> RankEnd | None:
    """Pass on what the child tells people; return how it ended, None if it died without a word."""
    while True:
        if context.stop_requested() != StopMode.STOP_MODE_UNSPECIFIED:
            raise RunStopped("stopped while the adapter was merged")
        try:
            report = reports.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            continue
        if report is None:
            return None
        if report.HasField("end"):
            return report.end
        if report.event.HasField("notice"):
            notice = report.event.notice
            context.notice(notice.text, hint=notice.hint, severity=notice.severity)


def _leave(process: subprocess.Popen[bytes]) -> None:
    """Let a child that has said its last word flush and exit with its own code."""
    try:
        process.wait(timeout=_LEAVE_SECONDS)
    except subprocess.TimeoutExpired:
        return  # it is killed


def _judge(end: RankEnd | None, code: int) -> None:
    if end is None:
        raise TunefleetError(
            Reason.OUT_OF_MEMORY if code == -9 else Reason.BACKEND_FAILED,
            f"The process that merges the adapter ended with exit code {code}.",
            hint="Export on a host with memory for the whole base, or read the log: tunefleet jobs logs NAME",
            metadata={"exit": str(code)},
        )
    if end.HasField("error"):
        raise error_from_status(end.error)
    if end.outcome != AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED:
        raise RunStopped("stopped while the adapter was merged")
