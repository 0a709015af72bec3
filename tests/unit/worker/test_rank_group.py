"""Several rank processes are one run: the first speaks, any that fails ends it, the cause is told."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tunefleet.backend.v1.run_pb2 import Run, RunOrder, StopMode
from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent, RunPhase
from tunefleet_core.errors import Reason, error_from_status
from tunefleet_core.worker.hosted_run import HostedRun
from tunefleet_core.worker.rank_group import RankGroup
from tunefleet_core.worker.rank_process import RankProcess

ENTRY = "several_ranks:SeveralRank"
WARMED = "warmed_rank:WarmedRank"
_LIMIT_SECONDS = 60


@pytest.fixture(autouse=True)
def _ranks_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    data = str(Path(__file__).parents[2] / "plugin_data")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((data, *filter(None, sys.path))))


async def run(
    folder: Path,
    count: int,
    *,
    when_working: Callable[[HostedRun, list[RankProcess]], object] = lambda run, ranks: None,
    entry: str = ENTRY,
    warm: bool = False,
    **options: object,
) -> tuple[Run, list[JobEvent], list[int | None]]:
    """Run `count` processes to the end; return how it ended, what was told, and the exit codes."""
    folder.mkdir(exist_ok=True)
    order = RunOrder(run="r-1", attempt=1, work_dir=str(folder))
    order.resolved_spec.spec.train.SetInParent()
    order.resolved_spec.spec.backend_options.update(options)
    ranks = [await RankProcess.spawn(entry, warm=warm) for _ in range(count)]
    for rank in ranks:
        assert await rank.next_report() is not None
    hosted = HostedRun(order, RankGroup(ranks))
    events: list[JobEvent] = []
    async with asyncio.timeout(_LIMIT_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(hosted.drive())
        async for batch in hosted.events(0):
            events += batch
            if any(event.phase_changed.phase == RunPhase.RUN_PHASE_WORKING for event in batch):
                acted = when_working(hosted, ranks)
                if asyncio.iscoroutine(acted):
                    group.create_task(acted)
    return hosted.describe(), events, [rank.process.returncode for rank in ranks]


async def test_each_process_knows_its_place_and_the_first_alone_is_heard(tmp_path: Path) -> None:
    ended, events, codes = await run(tmp_path, 3)
    assert ended.outcome == AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED
    assert ended.output.step == 0, "the output of the first one counts"
    assert codes == [0, 0, 0]
    assert [event.notice.text for event in events if event.HasField("notice")] == ["rank 0"]
    lines = sorted(line for event in events for line in event.log_lines.lines)
    places = [line for line in lines if "WORLD_SIZE=3" in line]
    assert len(places) == 3
    for rank in (1, 2):
        said = f"RANK={rank} LOCAL_RANK={rank} WORLD_SIZE=3 LOCAL_WORLD_SIZE=3 MASTER_ADDR=127.0.0.1"
        assert f"[rank {rank}] {said}" in places
    assert not [line for line in lines if "wrote" in line]
    assert len([line for line in lines if "only the first one writes" in line]) == 2


async def test_a_single_process_is_told_of_no_place(tmp_path: Path) -> None:
    ended, events, _ = await run(tmp_path, 1)
    assert ended.outcome == AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED
    assert any("WORLD_SIZE=None" in line for event in events for line in event.log_lines.lines)


@pytest.mark.parametrize("victim", [0, 1])
async def test_a_killed_process_ends_the_run_and_the_others_with_it(tmp_path: Path, victim: int) -> None:
    ended, _, codes = await run(
        tmp_path,
        2,
        wait=True,
        when_working=lambda _, ranks: ranks[victim].process.send_signal(signal.SIGKILL),
    )
    assert ended.outcome == AttemptOutcome.ATTEMPT_OUTCOME_FAILED
    error = error_from_status(ended.error)
    assert error.reason is Reason.WORKER_LOST
    assert f"Rank process {victim} of 2 ended by signal SIGKILL" in error.message
    assert codes[victim] == -signal.SIGKILL
    assert None not in codes


async def test_what_is_told_is_the_cause_and_not_what_the_others_saw_of_it(tmp_path: Path) -> None:
    told = {"0": Reason.BACKEND_FAILED.value, "1": Reason.OUT_OF_MEMORY.value}
    ended, _, _ = await run(tmp_path / "oom", 2, fail=told)
    assert error_from_status(ended.error).reason is Reason.OUT_OF_MEMORY
    ended, _, _ = await run(tmp_path / "died", 2, fail={"0": Reason.BACKEND_FAILED.value}, die={"1": 7})
    error = error_from_status(ended.error)
    assert error.reason is Reason.WORKER_LOST
    assert "Rank process 1 of 2 ended with exit code 7" in error.message


async def test_a_cancel_ends_every_process(tmp_path: Path) -> None:
    ended, _, codes = await run(
        tmp_path, 2, wait=True, when_working=lambda hosted, _: hosted.stop(StopMode.STOP_MODE_CANCEL)
    )
    assert ended.outcome == AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED
    assert None not in codes


@pytest.mark.parametrize("warm", [True, False])
async def test_a_training_run_is_warmed_once_with_no_garbage_collected_meanwhile(
    tmp_path: Path, warm: bool
) -> None:
    _, events, _ = await run(tmp_path, 1, entry=WARMED, warm=warm)
    (told,) = [event.notice.text for event in events if event.HasField("notice")]
    assert told == "while warming [False], now True"
