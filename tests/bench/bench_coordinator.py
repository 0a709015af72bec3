"""What the coordinator's process does in a second, asked over gRPC as its users and services ask it.

    python tests/bench/bench_coordinator.py [--trials 3] [--output FILE]

Submits with one call each, whole lives of jobs over the sessions of services, events in
batches, and the memory of the coordinator before and after. The callers run in one process
beside it: on two cores they take half of what there is. CPU per operation is the coordinator's
own, so it depends less than the speeds do on what else the machine does.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
from idle_trainer import IdleTrainer
from measured_fleet import ChaosFleet, echo_job, report, spread, trials_and_output

from tunefleet.fleet.v1.fleet_service_pb2 import ReportEventsRequest
from tunefleet.job.v1 import job_service_pb2 as wire
from tunefleet.job.v1.event_pb2 import JobEvent, Metrics
from tunefleet.job.v1.job_service_pb2_grpc import JobServiceStub
from tunefleet_core.rpc import open_channel

SUBMITS = 4_000
CALLERS = 32
SERVICES = 16
DEVICES = 8
LIVES = 2_000
BATCHES = 400
PER_BATCH = 100
_READERS = 4


@asynccontextmanager
async def coordinator() -> AsyncIterator[ChaosFleet]:
    """Run a coordinator alone, on a state folder of its own."""
    with tempfile.TemporaryDirectory(prefix="tf-bench-", dir="/tmp") as root:
        fleet = ChaosFleet(Path(root), lease_seconds=15.0)
        try:
            await fleet.start_coordinator()
            yield fleet
        finally:
            await fleet.close()


@asynccontextmanager
async def trainers(
    fleet: ChaosFleet, count: int, devices: int, *, ends: bool
) -> AsyncIterator[list[IdleTrainer]]:
    """Attach trainers that do no work."""
    token = (fleet.state / "service.token").read_text().strip()
    fakes = [
        IdleTrainer(fleet.service_address, token, f"idle-{number}", devices, ends=ends)
        for number in range(count)
    ]
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(fake.session.run()) for fake in fakes]
        for fake in fakes:
            await fake.welcomed_once.wait()
        yield fakes
        for task in running:
            task.cancel()


class Callers:
    """Callers of the user's listener, all in this process, one channel."""

    def __init__(self, fleet: ChaosFleet) -> None:
        self._channel = open_channel(fleet.user_address)
        token = (fleet.state / "admin.token").read_text().strip()
        self._metadata = (("authorization", f"Bearer {token}"),)
        self.stub = JobServiceStub(self._channel)

    async def submit(self, name: str) -> None:
        """Submit one job with one call."""
        request = wire.CreateJobRequest(
            request_id=str(uuid.uuid4()), parent="projects/default", job_id=name, spec=echo_job()
        )
        await self.stub.CreateJob(request, metadata=self._metadata, timeout=60)

    async def submit_all(self, count: int, callers: int, prefix: str) -> list[float]:
        """Submit jobs, so many at a time; return the seconds that each took."""
        latencies: list[float] = []

        async def one(number: int) -> None:
            start = time.perf_counter()
            await self.submit(f"{prefix}-{number}")
            latencies.append(time.perf_counter() - start)

        await each(range(count), callers, one)
        return latencies

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


async def each(numbers: range, callers: int, work: Callable[[int], Awaitable[None]]) -> None:
    """Do some work for every number, so many at a time."""
    left = iter(numbers)

    async def caller() -> None:
        for number in left:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())


def memory(fleet: ChaosFleet) -> float:
    """Return the resident memory of the coordinator in MB."""
    return round(psutil.Process(fleet.pid("coordinator")).memory_info().rss / 1e6, 1)


def cpu_seconds(fleet: ChaosFleet) -> float:
    """Return the CPU seconds that the coordinator has used."""
    times = psutil.Process(fleet.pid("coordinator")).cpu_times()
    return times.user + times.system


async def submits() -> dict[str, float]:
    """Durable submits, one call each, and what 10,000 queued jobs cost in memory."""
    async with coordinator() as fleet, trainers(fleet, 1, 1, ends=False):
        callers = Callers(fleet)
        idle = memory(fleet)
        await callers.submit_all(200, CALLERS, "warm")
        start, cpu = time.perf_counter(), cpu_seconds(fleet)
        latencies = await callers.submit_all(SUBMITS, CALLERS, "many")
        rate, cpu = SUBMITS / (time.perf_counter() - start), cpu_seconds(fleet) - cpu
        alone = await callers.submit_all(200, 1, "alone")
        await callers.submit_all(10_000 - SUBMITS - 400, CALLERS, "rest")
        full = memory(fleet)
        await callers.close()
    return {
        "submits_per_second": round(rate),
        "cpu_ms_per_submit": round(cpu / SUBMITS * 1e3, 3),
        "p50_seconds": round(statistics.median(latencies), 4),
        "p99_seconds": round(statistics.quantiles(latencies, n=100)[98], 4),
        "alone_p50_seconds": round(statistics.median(alone), 4),
        "alone_p99_seconds": round(statistics.quantiles(alone, n=100)[98], 4),
        "memory_idle_mb": idle,
        "memory_10000_jobs_mb": full,
    }


async def lives() -> dict[str, float]:
    """Whole lives of jobs over sessions: submitted before, then assigned, reported, ended."""
    async with coordinator() as fleet:
        callers = Callers(fleet)
        async with trainers(fleet, 1, 1, ends=False):  # a submit needs a backend in the fleet
            await callers.submit_all(LIVES, CALLERS, "life")
        async with trainers(fleet, SERVICES, DEVICES, ends=True) as fakes:
            start, cpu = time.perf_counter(), cpu_seconds(fleet)
            while sum(len(fake.seen) for fake in fakes) < LIVES - 1:  # the first trainer kept one
                await asyncio.sleep(0.02)
            seconds, cpu = time.perf_counter() - start, cpu_seconds(fleet) - cpu
        await callers.close()
    return {
        "jobs_per_second": round(LIVES / seconds),
        # PENDING to PREPARING to its end: two of the job, two of its attempt.
        "transitions_per_second": round(4 * LIVES / seconds),
        "cpu_ms_per_life": round(cpu / LIVES * 1e3, 3),
    }


async def events() -> dict[str, float]:
    """Events in batches of one hundred, over ReportEvents, of several attempts at once."""
    async with coordinator() as fleet, trainers(fleet, 1, _READERS, ends=False) as (fake,):
        callers = Callers(fleet)
        await callers.submit_all(_READERS, 1, "told")
        while len(fake.seen) < _READERS:
            await asyncio.sleep(0.02)
        connection = fake.connection
        start, cpu = time.perf_counter(), cpu_seconds(fleet)

        async def tell(number: int) -> None:
            attempt = list(fake.seen.values())[number]
            for batch in range(BATCHES // _READERS):
                first = batch * PER_BATCH + 1
                request = ReportEventsRequest(
                    job_uid=attempt.job_uid,
                    attempt=attempt.attempt,
                    fencing_number=attempt.fencing_number,
                    events=[
                        JobEvent(
                            attempt=attempt.attempt,
                            source_sequence=step,
                            metrics=Metrics(step=step, loss=1.0),
                        )
                        for step in range(first, first + PER_BATCH)
                    ],
                )
                await connection.fleet.ReportEvents(request, metadata=connection.metadata, timeout=60)

        await each(range(_READERS), _READERS, tell)
        rate, cpu = BATCHES * PER_BATCH / (time.perf_counter() - start), cpu_seconds(fleet) - cpu
        await callers.close()
    return {"events_per_second": round(rate), "cpu_ms_per_batch_of_events": round(cpu / BATCHES * 1e3, 3)}


async def run(count: int) -> dict[str, object]:
    """Measure everything some times."""
    found: dict[str, list[float]] = {}
    for _ in range(count):
        for measure in (submits, lives, events):
            for name, value in (await measure()).items():
                found.setdefault(name, []).append(value)
    return {name: spread(values) for name, values in found.items()}


def main() -> None:
    """Run the benchmark."""
    count, output = trials_and_output(__doc__, trials=3)
    promises = {
        "submits_per_second": ">= 1500, one call each",
        "p99_seconds": "< 0.05",
        "transitions_per_second": ">= 5000 over sessions",
        "events_per_second": ">= 100000, batched",
    }
    report("coordinator", promises=promises, results=asyncio.run(run(count)), output=output)


if __name__ == "__main__":
    main()
