"""The trackers of one run, fed by its contract host. None of them can delay or end the run.

Each has a process of its own and a queue: a step is put into it and nothing is waited for. What
goes wrong is told once. Only the end of the run waits for them, and not for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from google.protobuf import json_format

from tunefleet.backend.v1.run_pb2 import RunOrder, TrackerProgram
from tunefleet.backend.v1.tracker_pb2 import TrackedRun, TrackerCommand, TrackerReport
from tunefleet.job.v1.event_pb2 import AttemptOutcome, Metrics, Notice
from tunefleet_core.worker.framing import pack, read_frame_async

__all__ = ["RunTrackers"]

_QUEUED_STEPS = 10_000  # what a tracker may be behind: minutes of the fastest runs, a few megabytes
_HINT = "The run goes on without it. What it kept until then stays."

_Tell = Callable[[Notice], None]


class RunTrackers:
    """Everything that is told the numbers of a run. Without any it does nothing."""

    def __init__(self, order: RunOrder, tell: _Tell) -> None:
        self._trackers = [_TrackerProcess(_tracked(order, program), tell) for program in order.trackers]

    async def run(self) -> None:
        """Follow the run until `end`; never raises for what a tracker does."""
        async with asyncio.TaskGroup() as group:
            for tracker in self._trackers:
                group.create_task(tracker.run())

    def take(self, metrics: Metrics) -> None:
        """Tell the numbers of a step."""
        for tracker in self._trackers:
            tracker.take(metrics)

    def end(self, outcome: AttemptOutcome.ValueType, *, within_seconds: float) -> None:
        """Tell how the run has ended; `run` returns after the limit at the latest."""
        for tracker in self._trackers:
            tracker.end(outcome, within_seconds=within_seconds)


class _TrackerProcess:
    """One tracker: its process, its queue, and whether a fault of it was told."""

    def __init__(self, run: TrackedRun, tell: _Tell) -> None:
        self._run = run
        self._name = run.program.tracker.name
        self._tell = tell
        self._has_failed = False
        self._queue: asyncio.Queue[TrackerCommand] = asyncio.Queue()
        self._queue.put_nowait(TrackerCommand(begin=run))
        self._limit: asyncio.Timeout | None = None
        self._ends_at: float | None = None

    async def run(self) -> None:
        """Start the process, feed it, and return when it is gone."""
        if not self._run.program.python:
            self._fail("no plugin of this trainer brings it", hint="tunefleet plugins install tracking")
            return
        try:
            async with asyncio.timeout_at(self._ends_at) as self._limit:
                await self._follow()
        except TimeoutError:
            self._fail("it did not finish in time")
        except OSError as error:
            self._fail(f"its process does not start: {error.strerror}")
        finally:
            self._limit = None

    def take(self, metrics: Metrics) -> None:
        """Queue a step."""
        if self._has_failed:
            return
        if self._queue.qsize() >= _QUEUED_STEPS:
            self._fail(f"it is {_QUEUED_STEPS} steps behind")
            return
        self._queue.put_nowait(TrackerCommand(metrics=metrics))

    def end(self, outcome: AttemptOutcome.ValueType, *, within_seconds: float) -> None:
        """Queue the end, and see to it that it comes."""
        self._queue.put_nowait(TrackerCommand(end=outcome))
        self._ends_at = asyncio.get_running_loop().time() + within_seconds
        if self._limit is not None:
            self._limit.reschedule(self._ends_at)

    async def _follow(self) -> None:
        process = await asyncio.create_subprocess_exec(
            self._run.program.python,
            "-m",
            "tunefleet_core.tracking.process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # libraries print keys
        )
        assert process.stdin is not None  # both are pipes
        assert process.stdout is not None
        try:
            async with asyncio.TaskGroup() as group:
                feeding = group.create_task(self._feed(process.stdin))
                await self._listen(process.stdout)
                feeding.cancel()
            code = await process.wait()
            if code:
                self._fail(f"its process ended with {code}")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _feed(self, pipe: asyncio.StreamWriter) -> None:
        """Hand on what is queued, until the end or until the process is gone."""
        try:
            while True:
                command = await self._queue.get()
                pipe.write(pack(command))
                await pipe.drain()
                if command.WhichOneof("command") == "end":
                    return
        except ConnectionError:
            return

    async def _listen(self, pipe: asyncio.StreamReader) -> None:
        while (report := await read_frame_async(pipe, TrackerReport)) is not None:
            if report.failed:
                self._fail(report.failed)
            else:
                self._tell(Notice(severity="info", text=report.found, field="tracking"))

    def _fail(self, cause: str, *, hint: str = _HINT) -> None:
        """Tell a fault, once."""
        if not self._has_failed:
            self._has_failed = True
            text = f"The run is not tracked by {self._name}: {cause}."
            self._tell(Notice(severity="warning", text=text, hint=hint, field="tracking"))


def _tracked(order: RunOrder, program: TrackerProgram) -> TrackedRun:
    spec = json_format.MessageToJson(order.resolved_spec.spec, preserving_proto_field_name=True, indent=None)
    name = f"{order.job.rpartition('/')[2]}-{order.attempt}"
    return TrackedRun(program=program, name=name, job=order.job, attempt=order.attempt, spec_json=spec)
