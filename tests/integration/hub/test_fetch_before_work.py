"""A run whose base is still at the Hub fetches it first, tells how far it is, and can be stopped."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from fake_hub import COMMIT, FakeHub, serving
from test_hub_bases import environment, large_base, read

from tunefleet.backend.v1.run_pb2 import RunOrder, StopMode
from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent, RunPhase
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet.job.v1.spec_pb2 import BaseModel, JobSpec, TrainSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.errors import Reason, error_from_status
from tunefleet_core.worker.hosted_run import HostedRun
from tunefleet_core.worker.rank_group import RankGroup
from tunefleet_core.worker.rank_process import RankProcess

_ECHO = "tunefleet_echo.rank:EchoRank"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving(FakeHub(models={"org/large": large_base(tmp_path / "large")})) as fake:
        for name, value in environment(tmp_path / "hf", fake).items():
            monkeypatch.setenv(name, value)
        yield fake


async def hosted(tmp_path: Path, hub: FakeHub) -> HostedRun:
    facts = await asyncio.to_thread(read, "org/large", environment(tmp_path / "hf", hub))
    base = BaseFacts(model="org/large", path=facts["path"], commit=COMMIT)
    spec = JobSpec(name="fetched", train=TrainSpec(base=BaseModel(model="org/large")))
    order = RunOrder(
        run="run-1",
        attempt=1,
        work_dir=str(tmp_path / "work"),
        resolved_spec=ResolvedSpec(spec=spec, base=base),
    )
    (tmp_path / "work").mkdir()
    return HostedRun(order, RankGroup([await RankProcess.spawn(_ECHO, warm=False)]))


async def collect(run: HostedRun) -> list[JobEvent]:
    return [event async for batch in run.events(0) for event in batch]


async def test_a_run_fetches_its_base_and_then_works(tmp_path: Path, hub: FakeHub) -> None:
    run = await hosted(tmp_path, hub)
    hub.piece_delay_seconds = 0.03  # slow enough to be reported on the way
    async with asyncio.TaskGroup() as group:
        group.create_task(run.drive())
        told = group.create_task(collect(run))
    assert run.describe().outcome == AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED
    events = told.result()
    phases = [event.phase_changed.phase for event in events if event.HasField("phase_changed")]
    assert phases[:2] == [RunPhase.RUN_PHASE_STARTING, RunPhase.RUN_PHASE_DOWNLOADING]
    progress = [event.download for event in events if event.HasField("download")]
    assert progress[-1].done_bytes == progress[-1].total_bytes > 90 << 20
    assert [item.done_bytes for item in progress] == sorted(item.done_bytes for item in progress)
    assert progress[0].done_bytes < progress[0].total_bytes


@pytest.mark.parametrize(
    ("mode", "outcome"),
    [
        (StopMode.STOP_MODE_CANCEL, AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED),
        (StopMode.STOP_MODE_SAVE, AttemptOutcome.ATTEMPT_OUTCOME_PAUSED),
    ],
)
async def test_a_stop_ends_the_fetch(
    tmp_path: Path, hub: FakeHub, mode: StopMode.ValueType, outcome: AttemptOutcome.ValueType
) -> None:
    run = await hosted(tmp_path, hub)
    hub.piece_delay_seconds = 1.0
    async with asyncio.TaskGroup() as group:
        group.create_task(run.drive())
        while not _fetching():
            await asyncio.sleep(0.05)
        await run.stop(mode)
    assert run.describe().outcome == outcome
    assert not _fetching()


async def test_a_hub_that_is_gone_fails_the_run_for_a_reason_that_may_pass(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await hosted(tmp_path, hub)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    await run.drive()
    ended = run.describe()
    assert ended.outcome == AttemptOutcome.ATTEMPT_OUTCOME_FAILED
    assert error_from_status(ended.error).reason is Reason.HUB_UNREACHABLE


def _fetching() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "tunefleet_core.catalog.hub_fetch" in _command(child)]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def test_the_fetch_is_a_process_that_needs_nothing_heavy() -> None:
    code = (
        "import sys, tunefleet_core.catalog.hub_fetch; print('torch' in sys.modules, 'grpc' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False", "False"]
