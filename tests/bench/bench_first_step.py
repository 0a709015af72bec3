"""From submit to the first optimiser step: cold and warm, and where the time goes.

    python tests/bench/bench_first_step.py [--trials 5] [--output FILE]

The clock starts before CreateJob on an open connection and stops when a watcher has the first
step's numbers. Cold: no process of the backend waits. Warm: a rank process with its imports done.
The tickets job of the examples (400 rows), without validation.

`resolve`: CreateJob, which reads the base, renders and audits all rows. `start`: scheduled, host
and rank at work. `load`: rows rendered, base and adapter built. `step`: the first step itself.
`seen`: the event's way to the watcher.
"""

from __future__ import annotations

import asyncio
import time

from measured_fleet import (
    LocalFleet,
    event_seconds,
    is_metrics_of,
    measured_fleet,
    phase_seconds,
    report,
    short_job,
    spread,
    trials_and_output,
)

from tunefleet.job.v1.event_pb2 import RunPhase


async def measure(fleet: LocalFleet, seed: int) -> dict[str, float]:
    spec = short_job(f"train.seed={seed}", max_steps=2)
    async with fleet.client() as client:
        await client.fleet.list()  # connects
        begun = time.time()
        job = await client.jobs.create(spec)
        created = time.time()
        async with fleet.watching(client, job.name) as timeline:
            first = await timeline.wait_for(is_metrics_of(1))
            seen = time.time()
        await fleet.finish(client, job.name)
    loading = phase_seconds(timeline, 1, RunPhase.RUN_PHASE_LOADING)
    working = phase_seconds(timeline, 1, RunPhase.RUN_PHASE_WORKING)
    stepped = event_seconds(first)
    return {
        "total": seen - begun,
        "resolve": created - begun,
        "start": loading - created,
        "load": working - loading,
        "step": stepped - working,
        "seen": seen - stepped,
    }


async def trials(count: int, *, warm: bool) -> dict[str, dict[str, float]]:
    async with measured_fleet(warm=warm) as fleet:
        found: list[dict[str, float]] = []
        for seed in range(count):
            if warm:
                await fleet.warmed("trl")
            found.append(await measure(fleet, seed))
    return {name: spread(item[name] for item in found) for name in found[0]}


async def run(count: int) -> dict[str, object]:
    warm = await trials(count, warm=True)
    cold = await trials(max(2, count // 2), warm=False)
    ratio = warm["total"]["median"] / cold["total"]["median"]
    return {"warm_seconds": warm, "cold_seconds": cold, "warm_over_cold": round(ratio, 3)}


def main() -> None:
    count, output = trials_and_output(__doc__, trials=5)
    results = asyncio.run(run(count))
    report("first_step", promises={"warm total": "< 0.5 s"}, results=results, output=output)


if __name__ == "__main__":
    main()
