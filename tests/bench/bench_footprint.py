"""How long `tunefleet --help` takes, and what each process of an idle fleet holds in memory.

    python tests/bench/bench_footprint.py [--trials 10] [--output FILE]

Memory is the proportional set size where the system tells it (a page shared by three processes
counts a third in each), else the resident size. What 10,000 jobs add to the coordinator is in
`bench_coordinator.py`.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time

import psutil
from measured_fleet import LocalFleet, measured_fleet, report, spread, trials_and_output

_SETTLE_SECONDS = 5.0
_NAMES = {
    "tunefleet_coordinator.blobs": "blobs",
    "tunefleet_coordinator": "coordinator",
    "tunefleet_services.trainer": "trainer",
    "tunefleet_services.server": "server",
    "tunefleet_services.gateway": "gateway",
    "tunefleet_core.worker.host": "contract hosts",
    "tunefleet_core.worker.rank": "warm rank processes",
    "tunefleet_cli": "up",
}


def help_seconds(count: int) -> dict[str, dict[str, float]]:
    """Return the time of `--help` and of an interpreter that does nothing, in turns."""
    found: dict[str, list[float]] = {"help": [], "python": []}
    for _ in range(count):
        for name, arguments in (("help", ["-m", "tunefleet_cli", "--help"]), ("python", ["-c", "pass"])):
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            found[name].append(time.perf_counter() - start)
    return {f"{name}_seconds": spread(values) for name, values in found.items()}


def memory_mb(fleet: LocalFleet) -> dict[str, float]:
    """Return the memory of every kind of process, summed over its processes."""
    found: dict[str, float] = {}
    for process in fleet.processes():
        try:
            line = " ".join(process.cmdline())
            name = next((name for module, name in _NAMES.items() if module in line), "other")
            used = process.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        found[name] = found.get(name, 0.0) + getattr(used, "pss", used.rss) / 1e6
    return found


async def idle_memory(count: int) -> dict[str, float]:
    """Return the median memory of an idle fleet's processes."""
    seen: dict[str, list[float]] = {}
    async with measured_fleet() as fleet:
        await asyncio.sleep(_SETTLE_SECONDS)
        for _ in range(count):
            for name, value in memory_mb(fleet).items():
                seen.setdefault(name, []).append(value)
            await asyncio.sleep(0.5)
    return {name: round(statistics.median(values), 1) for name, values in sorted(seen.items())}


def main() -> None:
    """Run the benchmark."""
    count, output = trials_and_output(__doc__, trials=10)
    results = {**help_seconds(count), "idle_memory_mb": asyncio.run(idle_memory(3))}
    report("footprint", promises={"help_seconds": "< 0.3"}, results=results, output=output)


if __name__ == "__main__":
    main()
