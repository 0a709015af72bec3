"""How fast the kernel makes submits durable, and what an idle one costs with a long queue.

    python tests/bench/bench_kernel.py [--submits 20000] [--callers 256] [--queued 100000]

Prints JSON with the machine; asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.store import Store
from tunefleet_core.lifecycle import Policy
from tunefleet_core.testing import samples


async def _submit_all(kernel: Kernel, count: int, callers: int, prefix: str) -> list[float]:
    numbers = iter(range(count))
    latencies: list[float] = []

    async def caller() -> None:
        for number in numbers:
            name = f"{prefix}-{number}"
            start = time.perf_counter()
            await kernel.submit(samples.submit(0, name, request_id=name))
            latencies.append(time.perf_counter() - start)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return latencies


async def _report_events(kernel: Kernel, batches: int, per_batch: int) -> float:
    await kernel.submit(samples.attached(kernel.moment().now))
    attempt = await kernel.observe(lambda world: world.live_attempts()[0])
    start = time.perf_counter()
    for number in range(batches):
        first = number * per_batch + 1
        await kernel.submit(samples.events(0, attempt, *range(first, first + per_batch)))
    return batches * per_batch / (time.perf_counter() - start)


async def _measure(folder: Path, submits: int, callers: int, queued: int, idle: float) -> dict[str, float]:
    store = Store.open(folder / "store.db")
    kernel = Kernel(store, Policy(lease_term_seconds=15))
    running = asyncio.ensure_future(kernel.run())
    await kernel.ready()
    await _submit_all(kernel, 500, callers, "warm")
    start = time.perf_counter()
    latencies = sorted(await _submit_all(kernel, submits, callers, "job"))
    rate = submits / (time.perf_counter() - start)
    one = sorted(await _submit_all(kernel, 100, 1, "alone"))
    await _submit_all(kernel, max(0, queued - submits - 600), callers, "queued")
    before, start = time.process_time(), time.perf_counter()
    await asyncio.sleep(idle)
    idle_cores = (time.process_time() - before) / (time.perf_counter() - start)
    events = await _report_events(kernel, 100, 100)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    store.close()
    again = Store.open(folder / "store.db")
    start = time.perf_counter()
    loaded = len(again.load().rows)
    load_seconds = time.perf_counter() - start
    again.close()
    return {
        "submits_per_second": rate,
        "p50_seconds": statistics.median(latencies),
        "p99_seconds": latencies[int(len(latencies) * 0.99)],
        "alone_p50_seconds": statistics.median(one),
        "idle_cores_with_queue": idle_cores,
        "events_per_second_in_batches_of_100": events,
        "rows_loaded": loaded,
        "load_seconds": load_seconds,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--submits", type=int, default=20_000)
    parser.add_argument("--callers", type=int, default=256)
    parser.add_argument("--queued", type=int, default=100_000)
    parser.add_argument("--idle-seconds", type=float, default=10.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(
            _measure(Path(folder), asked.submits, asked.callers, asked.queued, asked.idle_seconds)
        )
    machine = {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "load_before": os.getloadavg()[0],
    }
    rounded = {name: round(value, 5) for name, value in figures.items()}
    print(json.dumps({"bench": "kernel", "asked": vars(asked), "machine": machine, **rounded}, indent=2))


if __name__ == "__main__":
    main()
