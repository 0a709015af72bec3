"""Cancel means gone: no process left within the promised time, whatever the run is doing."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest
from chaos_fleet import ChaosFleet, RunOnDisk, assert_whole, echo_job, slack

from tunefleet.job.v1.event_pb2 import DeviceRelease
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_client import Client
from tunefleet_core.worker.marker import marked_processes

pytestmark = [pytest.mark.chaos]

_GONE_SECONDS = 1.0
_GONE_STUBBORN_SECONDS = 2.0  # TERM is ignored, so KILL has to wait for the grace to pass

_SITUATIONS = {
    "working": {"step_seconds": 0.05},
    "loading": {"load_seconds": 5.0},
    "saving": {"step_seconds": 0.01, "save_seconds": 5.0},
    "uploading": {"step_seconds": 0.02, "checkpoint_bytes": 48 << 20},
}


@pytest.mark.seeds(12)
@pytest.mark.parametrize("stubborn", [False, True], ids=["plain", "stubborn"])
async def test_cancel_leaves_no_process_at_any_moment(
    fleet: ChaosFleet, seed: int, stubborn: bool, measure: Callable[[str, float], None]
) -> None:
    rng = random.Random(seed)
    situation = list(_SITUATIONS)[seed % len(_SITUATIONS)]
    async with fleet.client() as client:
        spec = echo_job(steps=400, every_steps=5, seed=seed, stubborn=stubborn, **_SITUATIONS[situation])
        job = await client.jobs.create(spec)
        # From before there is any process to long after the first checkpoint.
        await asyncio.sleep(rng.uniform(0.0, 1.5))
        seconds = await _cancel_and_time(fleet, client, job)
        await _assert_cancelled(fleet, client, job)
    kind = "stubborn" if stubborn else "plain"
    measure(f"cancel to gone, {kind}", seconds)
    promised = _GONE_STUBBORN_SECONDS if stubborn else _GONE_SECONDS
    assert seconds <= promised * slack(), f"{situation}: {seconds:.2f} s"


async def _cancel_and_time(fleet: ChaosFleet, client: Client, job: Job) -> float:
    """Cancel; return after how long no process of the attempt was left."""
    start = time.monotonic()
    await client.jobs.cancel(job.name)
    run: RunOnDisk | None = None
    gone: float | None = None
    while True:
        run = run or fleet.run_of(job)
        alive = [] if run is None else await asyncio.to_thread(marked_processes, run.mark)
        if alive:
            gone = None
        elif gone is None:
            gone = time.monotonic()
        current = await client.jobs.get(job.name)
        if current.state == JobState.JOB_STATE_CANCELLED:
            if run is not None:  # the state is the coordinator's promise that they are gone
                assert not marked_processes(run.mark)
            return (gone or time.monotonic()) - start
        assert time.monotonic() - start < 30, f"{current}\n{fleet.log('trainer')}"
        await asyncio.sleep(0.01)


async def _assert_cancelled(fleet: ChaosFleet, client: Client, job: Job) -> None:
    ended, events = await fleet.finish(client, job.name)
    assert ended.state == JobState.JOB_STATE_CANCELLED
    assert_whole(events)
    releases = [event.device_released for event in events if event.HasField("device_released")]
    started = [event for event in events if event.HasField("attempt_started")]
    assert len(releases) == len(started)
    assert all(item.device_release == DeviceRelease.DEVICE_RELEASE_BY_EXIT for item in releases)
