"""Trackers of a run in processes of their own: told everything in order, and never able to harm the run."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunefleet.backend.v1.run_pb2 import RunOrder, TrackerProgram
from tunefleet.backend.v1.tracker_pb2 import TrackedRun, TrackerCommand, TrackerReport
from tunefleet.job.v1.event_pb2 import AttemptOutcome, Metrics, Notice
from tunefleet.job.v1.spec_pb2 import BaseModel, JobSpec, Tracker, TrainSpec
from tunefleet_core.tracking import RunTrackers, numbers_of
from tunefleet_core.worker.framing import pack, read_frame
from tunefleet_core.worker.hosted_run import HostedRun
from tunefleet_core.worker.rank_group import RankGroup
from tunefleet_core.worker.rank_process import RankProcess

_KEY = "s3cret-key"
_SUCCEEDED = AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "plugin_data"))
    monkeypatch.setenv("TUNEFLEET_SECRET_MINE", _KEY)


def program(folder: Path, name: str, *, key: str = "MINE") -> TrackerProgram:
    return TrackerProgram(
        python=sys.executable,
        entry="trackers:tracker",
        tracker=Tracker(name=name, api_key=key),
        folder=str(folder),
    )


def order(folder: Path, *names: str) -> RunOrder:
    made = RunOrder(run="u-2", job="projects/default/jobs/tickets-7c9a", attempt=2, work_dir=str(folder))
    made.resolved_spec.spec.CopyFrom(JobSpec(name="tickets", train=TrainSpec(base=BaseModel(model="b"))))
    made.trackers.extend(program(folder, name) for name in names)
    return made


def kept(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "tickets-7c9a-2.jsonl").read_text().splitlines()]


async def followed(
    made: RunOrder,
    steps: int,
    *,
    within_seconds: float = 30.0,
    between: Callable[[int], float] = lambda _: 0.0,
) -> list[Notice]:
    told: list[Notice] = []
    trackers = RunTrackers(made, told.append)
    async with asyncio.TaskGroup() as group:
        group.create_task(trackers.run())
        for step in range(1, steps + 1):
            await asyncio.sleep(between(step))
            trackers.take(Metrics(step=step, loss=1 / step, extra={"rewards/margins": 0.5}))
        trackers.end(_SUCCEEDED, within_seconds=within_seconds)
    return told


async def test_every_step_is_kept_in_order_under_the_name_of_the_attempt(tmp_path: Path) -> None:
    told = await followed(order(tmp_path, "keeps"), 500)
    lines = kept(tmp_path)
    assert lines[0]["name"] == "tickets-7c9a-2"
    assert lines[0]["key"] == _KEY
    assert lines[0]["spec"]["train"]["base"]["model"] == "b"
    assert [line["step"] for line in lines[1:-1]] == list(range(1, 501))
    assert lines[2]["numbers"] == {"loss": 0.5, "rewards/margins": 0.5}
    assert lines[-1] == {"outcome": "ATTEMPT_OUTCOME_SUCCEEDED"}
    assert [(notice.severity, notice.text) for notice in told] == [("info", "see tickets-7c9a-2.jsonl")]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("refused", "[redacted] is refused by https://[redacted]@host/api"),
        ("raises", "no room"),
        ("dies", "its process ended with -9"),
        ("hangs", "it did not finish in time"),
    ],
)
async def test_a_fault_is_told_once_without_keys_and_the_others_go_on(
    tmp_path: Path, fault: str, cause: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    made = order(tmp_path, fault)
    made.trackers.append(program(other, "keeps"))
    begin = time.monotonic()
    told = await followed(made, 50, within_seconds=3.0, between=lambda step: 0.5 if step == 3 else 0.0)
    assert time.monotonic() - begin < 10
    faults = [notice for notice in told if notice.severity == "warning"]
    assert [notice.text for notice in faults] == [f"The run is not tracked by {fault}: {cause}."]
    assert all(_KEY not in notice.text for notice in told)
    assert kept(other)[-1] == {"outcome": "ATTEMPT_OUTCOME_SUCCEEDED"}


async def test_one_that_falls_behind_is_let_go_and_costs_no_memory(tmp_path: Path) -> None:
    told = await followed(order(tmp_path, "hangs"), 30_000, within_seconds=0.5)
    assert [notice.text for notice in told if notice.severity == "warning"] == [
        "The run is not tracked by hangs: it is 10000 steps behind."
    ]


async def test_one_that_is_not_installed_or_has_no_key_is_told(tmp_path: Path) -> None:
    made = order(tmp_path, "keeps")
    made.trackers[0].tracker.api_key = "OTHER"
    made.trackers.append(TrackerProgram(tracker=Tracker(name="absent"), folder=str(tmp_path)))
    texts = sorted(notice.text for notice in await followed(made, 1))
    assert "no plugin of this trainer brings it" in texts[0]
    assert "names the secret 'OTHER', which this trainer does not have" in texts[1]


@pytest.mark.parametrize(("ending", "outcome"), [("eof", "LOST"), ("term", "CANCELLED")])
def test_it_ends_its_run_when_its_host_dies_and_when_the_attempt_is_ended(
    tmp_path: Path, ending: str, outcome: str
) -> None:
    command = [sys.executable, "-m", "tunefleet_core.tracking.process"]
    run = TrackedRun(program=program(tmp_path, "keeps"), name="tickets-7c9a-2", spec_json="{}")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(pack(TrackerCommand(begin=run)))
        process.stdin.flush()
        assert read_frame(process.stdout, TrackerReport) is not None  # type: ignore[arg-type]
        if ending == "term":
            process.terminate()
        else:
            process.stdin.close()
        assert process.wait(timeout=10) == 0
    assert kept(tmp_path)[-1] == {"outcome": f"ATTEMPT_OUTCOME_{outcome}"}


async def test_a_run_succeeds_with_a_tracker_that_dies_and_says_so_in_its_events(tmp_path: Path) -> None:
    made = order(tmp_path, "dies")
    made.resolved_spec.spec.train.optim.max_steps = 6
    run = HostedRun(made, RankGroup([await RankProcess.spawn("tunefleet_echo.rank:EchoRank", warm=False)]))
    await run.drive()
    events = [event async for batch in run.events(0) for event in batch]
    assert run.describe().outcome == _SUCCEEDED
    assert [line["step"] for line in kept(tmp_path)[1:]] == [1, 2]
    warned = [event.notice.text for event in events if event.notice.severity == "warning"]
    assert warned == ["The run is not tracked by dies: its process ended with -9."]


def test_numbers_are_those_that_were_reported_and_finite() -> None:
    metrics = Metrics(
        step=3, total_steps=9, loss=float("nan"), tokens=7, extra={"kl": 0.1, "bad": float("inf")}
    )
    assert numbers_of(metrics) == {"tokens": 7.0, "kl": 0.1}
