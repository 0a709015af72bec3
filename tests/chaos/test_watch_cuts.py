"""A watcher that is cut off sees every event once, in order."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing

import pytest
from chaos_fleet import ChaosFleet, assert_whole, echo_job

from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet.job.v1.job_pb2 import Job

pytestmark = [pytest.mark.chaos]

_CUTS = 10


@pytest.mark.seeds(5)
async def test_watcher_whose_channel_is_closed_ten_times_sees_each_event_once(
    fleet: ChaosFleet, seed: int
) -> None:
    rng = random.Random(seed)
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=100, seed=seed, step_seconds=0.02))
    seen: list[JobEvent] = []
    for _ in range(_CUTS):
        await _watch(fleet, job, seen, most=rng.randrange(1, 25))
    await _watch(fleet, job, seen, most=10_000)
    assert_whole(seen)
    async with fleet.client() as client:
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert seen == events


@pytest.mark.slow  # ten starts of a coordinator
async def test_one_watch_across_ten_killed_coordinators_sees_each_event_once(fleet: ChaosFleet) -> None:
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=3_000, seed=5, step_seconds=0.1))
        async with fleet.watching(client, job.name) as timeline:
            for _ in range(_CUTS):
                seen = len(timeline.events)
                await fleet.until(lambda seen=seen: len(timeline.events) > seen, "news after a restart")
                await fleet.kill("coordinator")
                await fleet.start_coordinator()
            await client.jobs.cancel(job.name)
            await fleet.until(lambda: timeline.events[-1].HasField("state_changed"), "the cancel")
        _, events = await fleet.finish(client, job.name)
    assert_whole(events)
    assert timeline.events == events[: len(timeline.events)]


async def _watch(fleet: ChaosFleet, job: Job, seen: list[JobEvent], *, most: int) -> None:
    """Watch on from the last event until `most` came, then lose the channel with the stream open."""
    async with fleet.client() as client, asyncio.timeout(60):
        after = seen[-1].sequence if seen else 0
        count = 0
        async with aclosing(client.jobs.watch(job.name, after)) as changes:
            async for change in changes:
                if change.event is not None:
                    seen.append(change.event)
                    count += 1
                    if count == most:
                        return
