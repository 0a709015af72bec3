"""The rank processes of one run, one per device, seen as one.

The contract host starts them itself, each with a pipe of its own: no launcher stands between,
so each is a direct child that carries the attempt's marker and dies with its host. The first
one speaks for all. One that fails or dies ends the run, for the others would wait for it in
their next exchange; which of their complaints is the cause is decided here.
"""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from tunefleet.backend.v1.rank_pb2 import RankCommand, RankEnd
from tunefleet.backend.v1.run_pb2 import RunOrder
from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent
from tunefleet_core.errors import Reason, TunefleetError, error_from_status
from tunefleet_core.worker.rank_process import LogLine, RankProcess

__all__ = ["RankGroup"]

_VERDICT_SECONDS = 2.0  # between the process that decided how it ended and the last word of the others


class RankGroup:
    """Owns the rank processes of a run. With one process it adds nothing to it."""

    def __init__(self, ranks: Sequence[RankProcess]) -> None:
        self._ranks = tuple(ranks)
        self._ends: dict[int, RankEnd | None] = {}  # None: it closed its pipe without a word

    async def start(self, order: RunOrder) -> None:
        """Give every process the order, and its place among them if there are several."""
        rendezvous = Path(order.work_dir) / f"rendezvous-{uuid.uuid4().hex[:12]}"
        for rank, process in enumerate(self._ranks):
            command = RankCommand(run=order)
            if len(self._ranks) > 1:
                place = command.run.place
                place.rank, place.world_size = rank, len(self._ranks)
                place.rendezvous = str(rendezvous)
            await process.send(command)

    async def send(self, command: RankCommand) -> None:
        """Send a command to every process."""
        for process in self._ranks:
            await process.send(command)

    async def follow(self, take: Callable[[JobEvent], None]) -> RankEnd | None:
        """Hand on the events of the first process until the run has ended, and return how.

        None: a process closed its pipe without a word; `silent_error` says which one and how.
        """
        async with asyncio.TaskGroup() as group:
            pumps = {
                group.create_task(self._pump(rank, process, take if rank == 0 else None))
                for rank, process in enumerate(self._ranks)
            }
            waiting = pumps
            while waiting and not self._is_decided():
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if waiting:
                await asyncio.wait(waiting, timeout=_VERDICT_SECONDS)
            for pump in pumps:
                pump.cancel()
        return self._verdict()

    def silent_error(self) -> TunefleetError:
        """Return what to say of the first process that ended without a word. Call it after `end`."""
        rank = min((rank for rank, end in self._ends.items() if end is None), default=0)
        code = self._ranks[rank].process.returncode or 0
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        which = f"Rank process {rank} of {len(self._ranks)}" if len(self._ranks) > 1 else "The rank process"
        return TunefleetError(
            Reason.WORKER_LOST,
            f"{which} ended {how} before the run did.",
            hint="It is tried again from the newest committed checkpoint; see: tunefleet jobs logs NAME",
            metadata={"exit": str(code), "rank": str(rank)},
        )

    def outputs(self) -> list[AsyncIterator[LogLine]]:
        """Return what each process prints on `stdout` and on `stderr`; the later ones' lines name them."""
        return [
            _named(process.lines(name), rank)
            for rank, process in enumerate(self._ranks)
            for name in ("stdout", "stderr")
        ]

    async def leave(self, *, within_seconds: float) -> None:
        """Let processes that have said their last word flush and exit."""
        async with asyncio.TaskGroup() as group:
            for rank in self._ends:
                group.create_task(self._ranks[rank].leave(within_seconds=within_seconds))

    async def end(self, *, grace_seconds: float) -> None:
        """TERM, then KILL after the grace; returns when every process is reaped."""
        async with asyncio.TaskGroup() as group:
            for process in self._ranks:
                group.create_task(process.end(grace_seconds=grace_seconds))

    async def _pump(self, rank: int, process: RankProcess, take: Callable[[JobEvent], None] | None) -> None:
        while (report := await process.next_report()) is not None:
            kind = report.WhichOneof("report")
            if kind == "event" and take is not None:
                take(report.event)
            elif kind == "end":
                self._ends[rank] = report.end
                return
        self._ends[rank] = None

    def _has_failed(self) -> bool:
        return any(end is None or end.HasField("error") for end in self._ends.values())

    def _is_decided(self) -> bool:
        return 0 in self._ends or self._has_failed()

    def _verdict(self) -> RankEnd | None:
        """Choose among the ends: a stop, then a process that vanished, then what was classed best.

        Whoever waits for a process that is gone complains of its connection; that is no cause.
        """
        told = [end for end in self._ends.values() if end is not None]
        stopped = [end for end in told if end.outcome == AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED]
        if stopped:
            return stopped[0]
        if len(told) < len(self._ends):
            return None
        errors = [end for end in told if end.HasField("error")]
        if errors:
            return min(errors, key=_vagueness)
        return self._ends[0]


def _vagueness(end: RankEnd) -> bool:
    return error_from_status(end.error).reason is Reason.BACKEND_FAILED


async def _named(lines: AsyncIterator[LogLine], rank: int) -> AsyncIterator[LogLine]:
    async for line in lines:
        yield LogLine(stream=line.stream, text=f"[rank {rank}] {line.text}") if rank else line
