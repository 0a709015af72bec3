"""The SDK's own watch, async and sync at once, over a real coordinator that is SIGKILLed ten times."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "chaos"))

from chaos_fleet import ChaosFleet, assert_whole, echo_job

from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet_client.calls import Backoff
from tunefleet_client.sync import connect

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

_KILLS = 10


@pytest.fixture
async def fleet() -> AsyncIterator[ChaosFleet]:
    """A coordinator and a trainer."""
    root = Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))  # unix sockets need short paths
    running = ChaosFleet(root)
    try:
        await running.start_coordinator()
        await running.start_trainer()
        yield running
    finally:
        await running.close()
        shutil.rmtree(root, ignore_errors=True)


async def test_a_for_loop_over_ten_killed_coordinators_sees_each_event_once(fleet: ChaosFleet) -> None:
    seen: list[JobEvent] = []

    def follow(name: str) -> None:
        backoff = Backoff(most_seconds=0.3, tries=20)
        with connect(fleet.user_address, fleet.token("admin"), backoff=backoff) as client:
            for change in client.jobs.watch(name):
                if change.event is not None:
                    seen.append(change.event)

    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=5000, seed=7, step_seconds=0.1))
        async with asyncio.TaskGroup() as group, fleet.watching(client, job.name) as timeline:
            group.create_task(asyncio.to_thread(follow, job.name))
            for _ in range(_KILLS):
                before = len(seen)
                await fleet.until(lambda before=before: len(seen) > before, "news after a restart")
                await fleet.kill("coordinator")
                await fleet.start_coordinator()
            await client.jobs.cancel(job.name)
        _, events = await fleet.finish(client, job.name)
    assert_whole(events)
    assert seen == events
    assert timeline.events == events[: len(timeline.events)]
