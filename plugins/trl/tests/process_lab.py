"""A run in its own rank processes, as a contract host drives them: spawned, ordered, stopped, killed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tunefleet.backend.v1.run_pb2 import Run, RunOrder
from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet_core.worker.hosted_run import HostedRun
from tunefleet_core.worker.rank_group import RankGroup
from tunefleet_core.worker.rank_process import RankProcess

__all__ = ["Hosted", "drive", "run_hosted"]

LIMIT_SECONDS = 600.0  # the libraries are imported once per process; a busy machine takes its time


@dataclass(slots=True, kw_only=True)
class Hosted:
    """A run and what was seen of it."""

    order: RunOrder
    run: HostedRun
    processes: list[RankProcess]
    events: list[JobEvent] = field(default_factory=list[JobEvent])

    @property
    def losses(self) -> dict[int, float]:
        """Losses by step."""
        told = (event.metrics for event in self.events if event.metrics.HasField("loss"))
        return {metrics.step: metrics.loss for metrics in told}

    @property
    def validation_losses(self) -> list[float]:
        """Validation losses in their order."""
        told = (event.metrics for event in self.events)
        return [metrics.validation_loss for metrics in told if metrics.HasField("validation_loss")]

    @property
    def printed(self) -> str:
        """What the processes printed."""
        return "\n".join(line for event in self.events for line in event.log_lines.lines)

    @property
    def ended(self) -> Run:
        """How it ended."""
        return self.run.describe()


Watch = Callable[[Hosted, JobEvent], Awaitable[None]]


def run_hosted(order: RunOrder, entry: str, *, processes: int, watch: Watch | None = None) -> Hosted:
    """Run an order in a number of rank processes; `watch` sees every event as it comes."""
    return asyncio.run(drive(order, entry, processes=processes, watch=watch))


async def drive(order: RunOrder, entry: str, *, processes: int, watch: Watch | None = None) -> Hosted:
    """The same, for callers that have a loop."""
    order.device_ids[:] = [f"cpu-{number}" for number in range(processes)]
    order.resolved_spec.spec.resources.devices = processes
    order.threads = 1
    ranks = [await RankProcess.spawn(entry, warm=False) for _ in range(processes)]
    for rank in ranks:
        report = await rank.next_report()
        assert report is not None
        assert report.HasField("warm")
    Path(order.work_dir).mkdir(parents=True, exist_ok=True)
    hosted = Hosted(order=order, run=HostedRun(order, RankGroup(ranks)), processes=ranks)
    async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(hosted.run.drive())
        async for batch in hosted.run.events(0):
            for event in batch:
                hosted.events.append(event)
                if watch is not None:
                    await watch(hosted, event)
    assert all(rank.process.returncode is not None for rank in ranks), "every process is reaped"
    return hosted
