"""The rank in the process it really runs in: warmed, ordered over a pipe, stopped, silent."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import trl_lab as lab

from tunefleet.backend.v1.rank_pb2 import RankCommand, RankEnd, RankStop
from tunefleet.backend.v1.run_pb2 import RunOrder, StopMode
from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent
from tunefleet_core.testing.rank_parents import rank_parent
from tunefleet_core.worker.rank_process import RankProcess

ENTRY = "tunefleet_trl.rank:TrlRank"


async def _run(
    order: RunOrder, *, stop_at: int = 0, is_forked: bool = False
) -> tuple[RankEnd, list[JobEvent], list[str], list[float]]:
    """Run an order in a warm process; stop it with CANCEL after a step. Returns times of steps and end."""
    if is_forked:  # from what other tests have forked from: nothing is imported again
        process = await RankProcess.fork(rank_parent(ENTRY))
    else:
        process = await RankProcess.spawn(ENTRY, warm=True)
    events: list[JobEvent] = []
    times: list[float] = []
    try:
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            printed = group.create_task(_lines(process))
            report = await process.next_report()
            assert report is not None
            assert report.HasField("warm")
            start = time.monotonic()
            await process.send(RankCommand(run=order))
            while (report := await process.next_report()) is not None and not report.HasField("end"):
                events.append(report.event)
                if report.event.metrics.HasField("loss"):
                    times.append(time.monotonic() - start)
                    if len(times) == stop_at:
                        await process.send(RankCommand(stop=RankStop(mode=StopMode.STOP_MODE_CANCEL)))
            assert report is not None, "the process died"
            await process.wait()
        return report.end, events, printed.result(), times
    finally:
        await process.end(grace_seconds=1)


async def _lines(process: RankProcess) -> list[str]:
    return [line.text async for line in process.lines("stdout")]


def _order(base: Path, folder: Path, *, steps: int) -> RunOrder:
    data = lab.colours(folder / "train.jsonl", copies=4)
    return lab.order(
        lab.resolved(base, data=[("train", data)], spec=lab.train_spec(steps=steps)), folder / "work"
    )


def test_a_warm_process_trains_and_prints_nothing(base: Path, tmp_path: Path) -> None:
    end, events, printed, times = asyncio.run(_run(_order(base, tmp_path, steps=5)))
    assert end.outcome == AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED, end.error
    assert end.output.step == 5
    assert len(times) == 5
    assert events[0].HasField("phase_changed")
    assert printed == []
    assert (tmp_path / "work" / "output" / "contract.json").is_file()
    print(f"first step {times[0]:.2f} s after the order")


def test_a_cancel_ends_a_process_that_trains(base: Path, tmp_path: Path) -> None:
    end, _, _, times = asyncio.run(_run(_order(base, tmp_path, steps=100_000), stop_at=3, is_forked=True))
    assert end.outcome == AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED
    assert len(times) < 100
    assert not (tmp_path / "work" / "output").exists()
