"""How fast a cancel is proven and a killed run trains again, for echo and for trl.

    python tests/bench/bench_survival.py [--trials 4] [--output FILE]

`cancel_to_gone`: from CancelJob until none of the attempt's processes lives; `cancel_to_state`: until
a watcher reads CANCELLED. `kill_to_training`: from SIGKILL of the rank process until a watcher has
numbers of attempt 2, which resumed from a committed checkpoint. Its parts: `noticed` (attempt 1 has
ended), `assigned` (attempt 2 is placed), `host` (a process has the order), `load` (base, rows and
checkpoint), `step`. A waiting process is there before each kill, as after some seconds of any run.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time

import psutil
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
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.spec_pb2 import JobSpec

_POLL_SECONDS = 0.002


def job_of(backend: str, *, steps: int) -> JobSpec:
    if backend == "trl":
        return short_job("train.checkpoint.every_steps=5", max_steps=steps)
    spec = JobSpec(name="survival", backend="echo")
    spec.CopyFrom(short_job("train.checkpoint.every_steps=5", max_steps=steps))
    spec.backend = "echo"
    spec.backend_options.update({"step_seconds": 0.05})
    return spec


async def processes_of(fleet: LocalFleet, job: Job) -> dict[str, int]:
    return (await fleet.run_begun(job)).pids()


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def cancel(fleet: LocalFleet, backend: str) -> dict[str, float]:
    async with fleet.client() as client:
        job = await client.jobs.create(job_of(backend, steps=1000))
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(is_metrics_of(1, 3))
            pids = await processes_of(fleet, job)
            begun = time.monotonic()
            await client.jobs.cancel(job.name)
            while any(lives(pid) for pid in pids.values()):
                await asyncio.sleep(_POLL_SECONDS)
            gone = time.monotonic() - begun
            await fleet.finish(client, job.name)
            return {"cancel_to_gone": gone, "cancel_to_state": time.monotonic() - begun}


async def kill(fleet: LocalFleet, backend: str) -> dict[str, float]:
    async with fleet.client() as client:
        job = await client.jobs.create(job_of(backend, steps=1000))
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(lambda event: event.HasField("checkpoint_committed"))
            await fleet.warmed(backend)
            pids = await processes_of(fleet, job)
            killed = time.time()
            os.kill(pids["rank"], signal.SIGKILL)
            first = await timeline.wait_for(is_metrics_of(2))
            seen = time.time()
        await client.jobs.cancel(job.name)
        await fleet.finish(client, job.name)
    ended = timeline.find(lambda event: event.HasField("attempt_ended"))
    started = timeline.find(lambda event: event.attempt_started.fencing_number == 2)
    assert ended is not None
    assert started is not None
    loading = phase_seconds(timeline, 2, RunPhase.RUN_PHASE_LOADING)
    working = phase_seconds(timeline, 2, RunPhase.RUN_PHASE_WORKING)
    return {
        "kill_to_training": seen - killed,
        "noticed": event_seconds(ended) - killed,
        "assigned": event_seconds(started) - event_seconds(ended),
        "host": loading - event_seconds(started),
        "load": working - loading,
        "step": event_seconds(first) - working,
    }


async def run(count: int) -> dict[str, object]:
    results: dict[str, object] = {}
    async with measured_fleet() as fleet:
        for backend in ("echo", "trl"):
            found: dict[str, list[float]] = {}
            for _ in range(count):
                for measured in (cancel, kill):
                    await fleet.warmed(backend)
                    for name, seconds in (await measured(fleet, backend)).items():
                        found.setdefault(name, []).append(seconds)
            results[backend] = {name: spread(values) for name, values in found.items()}
    return results


def main() -> None:
    count, output = trials_and_output(__doc__, trials=4)
    promises = {"cancel_to_gone": "< 1 s", "kill_to_training": "< 2 s + load"}
    report("survival", promises=promises, results=asyncio.run(run(count)), output=output)


if __name__ == "__main__":
    main()
