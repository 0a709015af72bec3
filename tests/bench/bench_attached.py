"""What attached services cost a coordinator, and how that grows with their number.

    python tests/bench/bench_attached.py [--most 10000] [--output FILE]

Services are simulated: real sessions with heartbeats over gRPC, no work, many in each of two
processes beside the coordinator. For each size: CPU seconds of the coordinator to take
them in, cores it uses while they only beat (a lease of 60 s), memory, and CPU seconds for jobs
to be submitted, placed and ended among them. The exponent is the slope of a line through
the logarithms: 1 is linear.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import psutil
from bench_coordinator import Callers
from idle_trainer import IdleTrainer
from measured_fleet import ChaosFleet, report

from tunefleet_services.control import Connection

_LEASE_SECONDS = 60.0
_IDLE_SECONDS = 20.0
_JOBS = 500
_CALLERS = 32
_PER_CHANNEL = 500
_HOLDERS = 2


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=10_000, help="largest number of services")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    sizes = [arguments.most // 8, arguments.most // 4, arguments.most // 2, arguments.most]
    measured = [asyncio.run(measure(size)) for size in sizes]
    growth = {
        name: round(exponent(sizes, [item[name] for item in measured]), 2)
        for name in ("attach_cpu_seconds", "idle_cores", "jobs_cpu_seconds")
    }
    promises = {"services attached": "10,000", "growth exponent": "<= 1.1"}
    report(
        "attached", promises=promises, results={"sizes": measured, "growth": growth}, output=arguments.output
    )


async def measure(count: int) -> dict[str, float]:
    """Attach so many services to a fresh coordinator and measure it."""
    with tempfile.TemporaryDirectory(prefix="tf-bench-", dir="/tmp") as root:
        fleet = ChaosFleet(Path(root), lease_seconds=_LEASE_SECONDS)
        try:
            await fleet.start_coordinator()
            process = psutil.Process(fleet.pid("coordinator"))
            empty = process.memory_info().rss
            begun, cpu = time.monotonic(), _cpu(process)
            async with attached(fleet, count):
                taken_in, attach_cpu = time.monotonic() - begun, _cpu(process) - cpu
                await asyncio.sleep(2)  # the last answers
                cpu = _cpu(process)
                await asyncio.sleep(_IDLE_SECONDS)
                idle = (_cpu(process) - cpu) / _IDLE_SECONDS
                memory = process.memory_info().rss - empty
                cpu = _cpu(process)
                await _work(fleet)
                jobs_cpu = _cpu(process) - cpu
        finally:
            await fleet.close()
    return {
        "services": count,
        "attach_seconds": round(taken_in, 2),
        "attach_cpu_seconds": round(attach_cpu, 2),
        "idle_cores": round(idle, 4),
        "jobs_cpu_seconds": round(jobs_cpu, 3),
        "memory_mb": round(memory / 1e6, 1),
    }


async def _work(fleet: ChaosFleet) -> None:
    """Submit jobs and wait until every one of them has ended."""
    callers = Callers(fleet)
    await callers.submit_all(_JOBS, _CALLERS, "life")
    await callers.close()
    async with fleet.client() as client:
        for number in range(_JOBS):
            async with asyncio.timeout(60):
                while not (await client.jobs.get(f"projects/default/jobs/life-{number}")).HasField(
                    "end_time"
                ):
                    await asyncio.sleep(0.1)


@asynccontextmanager
async def attached(fleet: ChaosFleet, count: int) -> AsyncIterator[None]:
    """Hold so many sessions open, in processes of their own."""
    token = (fleet.state / "service.token").read_text().strip()
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    share = [range(first, count, _HOLDERS) for first in range(_HOLDERS)]
    ready = [context.Event() for _ in share]
    holders = [
        context.Process(target=_hold, args=(fleet.service_address, token, list(part), is_ready, stop))
        for part, is_ready in zip(share, ready, strict=True)
    ]
    for holder in holders:
        holder.start()
    try:
        for is_ready in ready:
            if not await asyncio.to_thread(is_ready.wait, 300):
                raise TimeoutError("not every service attached within 300 s")
        yield
    finally:
        stop.set()
        for holder in holders:
            await asyncio.to_thread(holder.join, 30)
            holder.kill()


def _hold(address: str, token: str, numbers: Sequence[int], ready: Event, stop: Event) -> None:
    """Run in a process of its own: attach, beat and wait."""
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_hold_all(address, token, numbers, ready, stop))


async def _hold_all(address: str, token: str, numbers: Sequence[int], ready: Event, stop: Event) -> None:
    async with asyncio.TaskGroup() as group:
        running: list[asyncio.Task[None]] = []
        for part in _parts(numbers):
            connection = Connection(address=address, token=token)
            fakes = [IdleTrainer(address, token, f"idle-{one}", 1, connection=connection) for one in part]
            running += [group.create_task(fake.session.run()) for fake in fakes]
            for fake in fakes:
                await fake.welcomed_once.wait()
        ready.set()
        await asyncio.to_thread(stop.wait)
        for task in running:
            task.cancel()


def _parts(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), _PER_CHANNEL):
        yield numbers[start : start + _PER_CHANNEL]


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Return the slope of the least-squares line through (log size, log value)."""
    points = [(math.log(size), math.log(max(value, 1e-6))) for size, value in zip(sizes, values, strict=True)]
    mean_x, mean_y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    main()
