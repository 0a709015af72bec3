"""The newest events of a job, of one that goes on too: read once, not followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from tunefleet.job.v1.event_pb2 import JobEvent, Sample
from tunefleet.job.v1.job_pb2 import Job
from tunefleet_client import Client, TunefleetError, is_terminal

__all__ = ["newest_events", "newest_samples"]

_SAMPLE_EVENTS = 2_000
_SAMPLE_SECONDS = 5.0


async def newest_events(
    client: Client, job: Job, *, most: int, give_up_seconds: float
) -> AsyncGenerator[JobEvent]:
    """Yield the events that a job had when it was read, the newest `most` of them.

    Raises:
        TunefleetError: as a watch does.
    """
    if not job.last_sequence:
        return
    changes = client.jobs.watch(job.name, max(0, job.last_sequence - most), give_up_seconds=give_up_seconds)
    async with aclosing(changes):
        async for change in changes:
            if change.event is None:
                continue
            yield change.event
            if change.event.sequence >= job.last_sequence and not is_terminal(job):
                return


async def newest_samples(client: Client, job: Job) -> list[Sample]:
    """Return the newest answer to each of a job's prompts; none if they cannot be read in time."""
    if not job.resolved_spec.spec.train.samples.prompts:
        return []
    found: dict[str, Sample] = {}
    events = newest_events(client, job, most=_SAMPLE_EVENTS, give_up_seconds=_SAMPLE_SECONDS)
    try:
        async with asyncio.timeout(_SAMPLE_SECONDS), aclosing(events):
            async for event in events:
                if event.HasField("sample"):
                    found[event.sample.prompt] = event.sample
    except (TimeoutError, TunefleetError):
        return list(found.values())  # what else there is of the job is shown all the same
    return list(found.values())
