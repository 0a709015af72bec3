"""A run inside its contract host: its rank processes, one spool, one outcome."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from tunefleet.backend.v1.rank_pb2 import RankCommand, RankEnd, RankSave, RankStop
from tunefleet.backend.v1.run_pb2 import Run, RunOrder, RunState, StopMode
from tunefleet.job.v1.event_pb2 import (
    AttemptOutcome,
    CheckpointSaved,
    JobEvent,
    LogLines,
    Notice,
    PhaseChanged,
    RunPhase,
)
from tunefleet_core.errors import TunefleetError, from_exception, status_from_error
from tunefleet_core.timestamps import timestamp_now
from tunefleet_core.tracking import RunTrackers
from tunefleet_core.worker.base_fetch import fetch_base, is_missing
from tunefleet_core.worker.rank_group import RankGroup
from tunefleet_core.worker.rank_process import LogLine
from tunefleet_core.worker.spool import EventSpool, SpoolTail

__all__ = ["SPOOL_NAME", "HostedRun", "saved_checkpoints"]

_LOG = logging.getLogger(__name__)

SPOOL_NAME = "events.spool"
_EXIT_GRACE_SECONDS = 5.0  # after its last report a rank only flushes and exits
_CANCEL_GRACE_SECONDS = 0.3  # time to end between two steps before TERM
_TERM_GRACE_SECONDS = 0.7  # together with the above: KILL after one second
_LAST_LINES_SECONDS = 0.5
_BATCH_EVENTS = 200
_TRACKING_SECONDS = 30.0  # for trackers to keep the last steps, which may be a transfer
_CANCELLED_TRACKING_SECONDS = 0.5  # a cancel waits for nobody


def saved_checkpoints(work_dir: Path) -> list[CheckpointSaved]:
    """Return the complete checkpoints on a run's disk, oldest first."""
    folders = sorted(path for path in (work_dir / "checkpoints").glob("step-*") if path.suffix != ".partial")
    return [
        CheckpointSaved(step=int(path.name.removeprefix("step-")), path=f"checkpoints/{path.name}")
        for path in folders
    ]


class HostedRun:
    """Drives the rank processes of one run and remembers how it ended."""

    def __init__(self, order: RunOrder, ranks: RankGroup) -> None:
        self._order = order
        self._ranks = ranks
        self._trackers = RunTrackers(order, self._tell)
        self._work_dir = Path(order.work_dir)
        self._spool_path = self._work_dir / SPOOL_NAME
        self._spool = EventSpool(self._spool_path)
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._end: RankEnd | None = None
        self._stop_mode: StopMode.ValueType = StopMode.STOP_MODE_UNSPECIFIED
        self._has_worked = False
        self._saves_asked = 0

    @property
    def is_ended(self) -> bool:
        """Whether the rank processes are reaped and the outcome known."""
        return self._ended.is_set()

    def describe(self) -> Run:
        """Return the run as the contract shows it."""
        run = Run(
            name=self._order.run,
            state=RunState.RUN_STATE_ENDED if self.is_ended else RunState.RUN_STATE_RUNNING,
            last_source_sequence=self._spool.last_source_sequence,
            checkpoints=saved_checkpoints(self._work_dir),
        )
        if self.is_ended and self._end is not None:
            run.outcome = self._end.outcome
            if self._end.HasField("error"):
                run.error.CopyFrom(self._end.error)
            if self._end.HasField("output"):
                run.output.CopyFrom(self._end.output)
        return run

    async def drive(self) -> None:
        """Work to the end. Never raises for what a rank or a tracker does: it is an outcome or a notice."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._trackers.run())
                await self._work()
                outcome = self._settled_end().outcome
                is_cancelled = outcome == AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED
                seconds = _CANCELLED_TRACKING_SECONDS if is_cancelled else _TRACKING_SECONDS
                self._trackers.end(outcome, within_seconds=seconds)
        finally:
            self._finish()

    async def _work(self) -> None:
        """Drive the rank processes; returns when they are reaped."""
        try:
            self._record(JobEvent(phase_changed=PhaseChanged(phase=RunPhase.RUN_PHASE_STARTING)))
            if not await self._has_base():
                return
            await self._ranks.start(self._order)
            async with asyncio.TaskGroup() as group:
                pumps = [group.create_task(self._pump_lines(lines)) for lines in self._ranks.outputs()]
                self._end = await self._ranks.follow(self._take)
                await self._ranks.leave(within_seconds=_EXIT_GRACE_SECONDS)
                await self._ranks.end(grace_seconds=_TERM_GRACE_SECONDS)
                # What the ranks printed is in the pipes; a process it left behind may hold them open.
                await asyncio.wait(pumps, timeout=_LAST_LINES_SECONDS)
                for pump in pumps:
                    pump.cancel()
        except Exception as error:  # a full disk under the spool, above all
            _LOG.warning("run %s cannot go on: %r", self._order.run, error)
            self._end = _failed(from_exception(error))
        finally:
            await self._ranks.end(grace_seconds=_TERM_GRACE_SECONDS)

    async def stop(self, mode: StopMode.ValueType) -> None:
        """End the run in a mode; returns when it has ended. Repeating it is harmless."""
        if not self.is_ended:
            self._stop_mode = mode
            self._stop_asked.set()
            await self._ranks.send(RankCommand(stop=RankStop(mode=mode)))
            # What still loads has nothing to save, and may not look at its orders for minutes.
            if mode == StopMode.STOP_MODE_CANCEL or not self._has_worked:
                try:
                    async with asyncio.timeout(_CANCEL_GRACE_SECONDS):
                        await self._ended.wait()
                except TimeoutError:
                    await self._ranks.end(grace_seconds=_TERM_GRACE_SECONDS)
        await self._ended.wait()

    async def save(self, number: int) -> None:
        """Have the rank write a checkpoint and go on; a number that is known changes nothing."""
        if number > self._saves_asked and not self.is_ended:
            self._saves_asked = number
            await self._ranks.send(RankCommand(save=RankSave(number=number)))

    async def events(self, after: int) -> AsyncIterator[list[JobEvent]]:
        """Yield batches of events after a source sequence, until the run has ended and all are out."""
        tail = SpoolTail(self._spool_path, after)
        while True:
            changed = self._changed  # taken before reading: what comes meanwhile sets this very one
            was_ended = self.is_ended
            while batch := await asyncio.to_thread(tail.read, _BATCH_EVENTS):
                yield batch
            if was_ended:
                return
            await changed.wait()

    async def _has_base(self) -> bool:
        """Fetch the base if the Hub still has it; False if the run was asked to stop meanwhile."""
        base = self._order.resolved_spec.base
        if not await asyncio.to_thread(is_missing, base.path, base.commit):
            return True
        self._record(JobEvent(phase_changed=PhaseChanged(phase=RunPhase.RUN_PHASE_DOWNLOADING)))
        async with asyncio.TaskGroup() as group:
            fetching = group.create_task(
                fetch_base(base.model, base.commit, lambda done: self._record(JobEvent(download=done)))
            )
            stopping = group.create_task(self._stop_asked.wait())
            await asyncio.wait((fetching, stopping), return_when=asyncio.FIRST_COMPLETED)
            is_fetched = fetching.done()
            fetching.cancel()
            stopping.cancel()
        if is_fetched:
            return True
        if self._stop_mode == StopMode.STOP_MODE_SAVE:  # nothing was done yet, so nothing is to be saved
            self._end = RankEnd(outcome=AttemptOutcome.ATTEMPT_OUTCOME_PAUSED)
        return False

    def _take(self, event: JobEvent) -> None:
        phase = event.phase_changed.phase
        self._has_worked = self._has_worked or phase == RunPhase.RUN_PHASE_WORKING
        self._record(event)
        if event.WhichOneof("payload") == "metrics":
            self._trackers.take(event.metrics)

    def _tell(self, notice: Notice) -> None:
        """Record what a tracker has to say, if there is room: it may not end the run."""
        try:
            self._record(JobEvent(notice=notice))
        except OSError as error:
            _LOG.warning("run %s: %s (not recorded: %r)", self._order.run, notice.text, error)

    async def _pump_lines(self, lines: AsyncIterator[LogLine]) -> None:
        async for line in lines:
            self._record(JobEvent(log_lines=LogLines(stream=line.stream, lines=[line.text])))

    def _record(self, event: JobEvent) -> None:
        event.attempt = self._order.attempt
        if not event.HasField("create_time"):
            event.create_time.CopyFrom(timestamp_now())
        self._spool.append(event)
        self._notify()

    def _finish(self) -> None:
        self._settled_end()
        self._spool.close()
        self._ended.set()
        self._notify()

    def _notify(self) -> None:
        """Wake every reader; each waits on an event of its own time, so none clears another's."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _settled_end(self) -> RankEnd:
        """Return how the ranks ended. Call it when they are reaped."""
        if self._end is None:
            self._end = self._end_of_silent_rank()
        return self._end

    def _end_of_silent_rank(self) -> RankEnd:
        if self._stop_mode == StopMode.STOP_MODE_CANCEL:
            return RankEnd(outcome=AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED)
        if self._stop_mode == StopMode.STOP_MODE_SAVE and not self._has_worked:
            return RankEnd(outcome=AttemptOutcome.ATTEMPT_OUTCOME_PAUSED)
        return _failed(self._ranks.silent_error())


def _failed(error: TunefleetError) -> RankEnd:
    return RankEnd(outcome=AttemptOutcome.ATTEMPT_OUTCOME_FAILED, error=status_from_error(error))
