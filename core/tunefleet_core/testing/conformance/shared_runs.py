"""Runs that many tests ask about and none changes: `bench.shared(whole_run)`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunefleet.backend.v1.run_pb2 import Run, RunOrder, StopMode
from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent
from tunefleet_core.testing.conformance.bench import Bench, in_words
from tunefleet_core.testing.conformance.orders import EVERY_STEPS

__all__ = [
    "CancelledRun",
    "EndedRun",
    "cancelled_run",
    "paused_run",
    "resumed",
    "resumed_run",
    "tried_run",
    "whole_run",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRun:
    """A run that has ended, and what was ordered."""

    order: RunOrder
    run: Run

    @property
    def work(self) -> Path:
        """The folder it worked in."""
        return Path(self.order.work_dir)


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelledRun(EndedRun):
    """A run that was cancelled while it worked.

    Attributes:
        before: How it was shown while it worked.
        events: What a reader saw that had begun before the cancel, to the end of the stream.
    """

    before: Run
    events: Sequence[JobEvent]


async def whole_run(bench: Bench) -> EndedRun:
    """Return a run that was left alone. It is a second attempt, so that a constant 1 is found out."""
    order = bench.orders.run()
    order.attempt = 2
    return EndedRun(order=order, run=await bench.finish(order))


async def resumed_run(bench: Bench) -> EndedRun:
    """Return the run that went on at the first checkpoint of the whole one."""
    whole = await bench.shared(whole_run)
    order = resumed(bench, whole.order, whole.run, step=EVERY_STEPS)
    return EndedRun(order=order, run=await bench.finish(order))


async def tried_run(bench: Bench) -> EndedRun:
    """Return a run that was left alone, with a preflight."""
    order = bench.orders.run()
    order.resolved_spec.spec.train.preflight = True
    run = await bench.finish(order)
    assert run.outcome == AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED, in_words(run)
    return EndedRun(order=order, run=run)


async def cancelled_run(bench: Bench) -> CancelledRun:
    """Return a run that was cancelled after some steps."""
    order = bench.orders.endless_run()
    async with bench.working(order, step=2):
        before = await bench.get(order.run)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(bench.events(order.run))
            run = await bench.stop(order.run)
    return CancelledRun(order=order, run=run, before=before, events=reading.result())


async def paused_run(bench: Bench) -> EndedRun:
    """Return a run that was paused between two checkpoints."""
    order = bench.orders.endless_run()
    async with bench.working(order, step=EVERY_STEPS + 2):
        run = await bench.stop(order.run, StopMode.STOP_MODE_SAVE)
    return EndedRun(order=order, run=run)


def resumed(bench: Bench, before: RunOrder, run: Run, *, step: int) -> RunOrder:
    """Return an order that goes on at a checkpoint of another run."""
    order = bench.orders.run(spec=before.resolved_spec)
    saved = next(item for item in run.checkpoints if item.step == step)
    order.attempt = before.attempt + 1
    order.resume_from = str(Path(before.work_dir) / saved.path)
    order.resume_step = step
    return order
