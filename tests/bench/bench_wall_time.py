"""Wall time, processor time and memory of jobs against the same training as a bare script.

    python tests/bench/bench_wall_time.py [--backend trl|mlx|deepspeed] [--trials 3] [--output FILE]

Both ways in turns within one run; pairs are compared. A job: from CreateJob to its SUCCEEDED in a
watcher, with audit, checkpoint, record for serving and committed artifact; where the backend keeps a
process warm, one waits, as in any fleet that had a moment. The script: processes of its own, from start
to exit, its files cached by the system as well. Same data, base, adapter, batch and seed; where both can
draw the same numbers they must end at the same loss.

What the fleet saves is the start; steps cost both the same. So for trl a batch of 2 rows, where steps
are cheap, and the batch of 8 of the example are measured, and one long job, in which only what a
fleet adds to a step could show. `steps_seconds`: first to last step of the job.

Processor time of a job is that of the whole fleet from before it until a process is as warm as before,
so a warm start is paid for in it. Memory is that of the processes that train, at its most.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass

from bare_sides import Measured, as_script
from measured_fleet import (
    LocalFleet,
    backend_python,
    event_seconds,
    measured_fleet,
    report,
    short_job,
    spread,
    trials_backend_and_output,
)
from measured_processes import tree_cpu_seconds, watched

from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.state_pb2 import JobState

_SHORT, _LONG = 40, 500
_SLOW = 16  # steps of mlx on a processor, which take it ten times as long
_SETTLING_SECONDS = 1.0  # processes of an attempt that has ended leave within it
_SAME_LOSS = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One job and its script.

    Attributes:
        what: In words.
        overrides: What differs from the job of the example.
        batch: Rows of a step.
        steps: Optimiser steps.
        devices: Processes that train.
        is_full: Every weight is trained, not an adapter.
        is_once: Take one pair, however many are asked for.
        is_own_order: The script takes rows in the library's order.
        differs: Why both do not end at the same loss; empty: they must.
    """

    what: str
    overrides: tuple[str, ...] = ()
    batch: int = 8
    steps: int = _SHORT
    devices: int = 1
    is_full: bool = False
    is_once: bool = False
    is_own_order: bool = False
    differs: str = ""


_MLX = ("backend=mlx", "train.optim.max_grad_norm=1000000")  # mlx-lm clips nothing
_ON_TWO = ("backend=deepspeed", "resources.devices=2")
CASES: dict[str, tuple[Case, ...]] = {
    "trl": (
        Case(what="lora", batch=2),
        Case(what="lora"),
        Case(what="lora, long", steps=_LONG, is_once=True),
    ),
    "mlx": (
        Case(
            what="full",
            overrides=(*_MLX, "train.optim.learning_rate=1e-3"),
            batch=4,
            steps=_SLOW,
            is_full=True,
        ),
        Case(
            what="lora, rows in mlx-lm's order",
            overrides=_MLX,
            batch=4,
            steps=_SLOW,
            is_own_order=True,
            differs="mlx-lm sorts rows by length, trains what the template writes after an answer and one "
            "filling token, and draws the first factors of an adapter from another state",
        ),
    ),
    "deepspeed": (Case(what="lora, ZeRO-3 on two processes", overrides=_ON_TWO, devices=2),),
}
PROMISES = {
    "trl": {"ratio_median": "<= 0.35 for 40 steps at batch 2, <= 1.01 for a long job"},
    "mlx": {},
    "deepspeed": {},
}


async def through_fleet(fleet: LocalFleet, backend: str, case: Case) -> tuple[Measured, Job]:
    """Run the job of a case."""
    micro = case.batch // case.devices
    sizes = (f"train.optim.batch_size={case.batch}", f"train.optim.micro_batch_size={micro}")
    spec = short_job(*sizes, *case.overrides, max_steps=case.steps)
    if case.is_full:
        spec.train.ClearField("adapter")
    python = backend_python(backend)
    async with fleet.client() as client:
        await client.fleet.list()  # connects
        await fleet.warmed("trl")
        cpu_before = tree_cpu_seconds(fleet.pid("up"))
        async with watched(fleet.pid("up")) as watch:
            begun = time.monotonic()
            job, events = await fleet.finish(client, (await client.jobs.create(spec)).name)
            seconds = time.monotonic() - begun
    assert job.state == JobState.JOB_STATE_SUCCEEDED, job
    await asyncio.sleep(_SETTLING_SECONDS)
    await fleet.warmed("trl")  # or the next host's imports would slow the script
    told = [event for event in events if event.metrics.HasField("loss")]
    measured = Measured(
        seconds=seconds,
        cpu_seconds=tree_cpu_seconds(fleet.pid("up")) - cpu_before,
        peak_bytes=watch.peaks(lambda command: _is_rank(command, python), count=case.devices),
        last_loss=told[-1].metrics.loss,
        steps_seconds=event_seconds(told[-1]) - event_seconds(told[0]),
    )
    return measured, job


async def compare(fleet: LocalFleet, pairs: int, backend: str, case: Case) -> dict[str, object]:
    """Run pairs of a case and compare them."""
    jobs: list[Measured] = []
    scripts: list[Measured] = []
    for _ in range(1 if case.is_once else pairs):
        measured, job = await through_fleet(fleet, backend, case)
        jobs.append(measured)
        scripts.append(await as_script(fleet, job, is_own_order=case.is_own_order))
    losses = {item.last_loss for item in (*jobs, *scripts)}
    ratios = [job.seconds / script.seconds for job, script in zip(jobs, scripts, strict=True)]
    return {
        "what": case.what,
        "batch": case.batch,
        "steps": case.steps,
        "job_seconds": spread(item.seconds for item in jobs),
        "job_steps_seconds": spread(item.steps_seconds for item in jobs),
        "script_seconds": spread(item.seconds for item in scripts),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_worst": round(max(ratios), 3),
        "job_cpu_seconds": spread(item.cpu_seconds for item in jobs),
        "script_cpu_seconds": spread(item.cpu_seconds for item in scripts),
        "cpu_ratio_median": _ratio(
            (item.cpu_seconds for item in jobs), (item.cpu_seconds for item in scripts)
        ),
        "job_peak_mb": spread(item.peak_bytes / 1e6 for item in jobs),
        "script_peak_mb": spread(item.peak_bytes / 1e6 for item in scripts),
        "peak_ratio_median": _ratio(
            (item.peak_bytes for item in jobs), (item.peak_bytes for item in scripts)
        ),
        "last_loss": {
            "job": sorted({item.last_loss for item in jobs}),
            "script": sorted({item.last_loss for item in scripts}),
        },
        "same_loss": case.differs or math.isclose(min(losses), max(losses), rel_tol=_SAME_LOSS),
    }


async def run(pairs: int, backend: str) -> list[dict[str, object]]:
    """Measure every case of a backend."""
    cases = CASES[backend]
    async with measured_fleet(backend, devices=max(case.devices for case in cases)) as fleet:
        return [await compare(fleet, pairs, backend, case) for case in cases]


def _is_rank(command: list[str], python: str) -> bool:
    return command[:1] == [python] and "tunefleet_core.worker.rank" in command


def _ratio(jobs: Iterable[float], scripts: Iterable[float]) -> float:
    return round(statistics.median(job / script for job, script in zip(jobs, scripts, strict=True)), 3)


def main() -> None:
    pairs, backend, output = trials_backend_and_output(__doc__, trials=3, backends=list(CASES))
    results = asyncio.run(run(pairs, backend))
    report(
        f"wall_time of {backend}",
        promises=PROMISES[backend],
        results=results,
        output=output,
        backend=backend,
    )


if __name__ == "__main__":
    main()
