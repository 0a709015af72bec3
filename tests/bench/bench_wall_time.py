"""Wall time of short and long jobs against the same training as a bare TRL script.

    python tests/bench/bench_wall_time.py [--trials 3] [--output FILE]

Both ways in turns within one run; pairs are compared. A job: from CreateJob to its SUCCEEDED in a
watcher, with audit, checkpoint, record for serving and committed artifact; a warm process waits, as
in any fleet that had a moment. The script: a process of its own, from start to exit, its files
cached by the system as well. Same data, base, LoRA, batch and seed; both must end at the same loss.

What the fleet saves is the start; steps cost both the same. So a batch of 2 rows, where steps are
cheap, and the batch of 8 of the example are measured, and one long job, in which only what a
fleet adds to a step could show. `steps_seconds`: first to last step of the job.
"""

from __future__ import annotations

import asyncio
import json
import math
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from measured_fleet import (
    LocalFleet,
    backend_python,
    event_seconds,
    measured_fleet,
    report,
    short_job,
    spread,
    trials_and_output,
)

from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.state_pb2 import JobState

_SHORT, _LONG = 40, 500
_BARE = Path(__file__).with_name("bare_trl.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run, either way."""

    seconds: float
    last_loss: float
    steps_seconds: float = 0.0


async def through_fleet(fleet: LocalFleet, batch: int, steps: int) -> tuple[Measured, Job]:
    sizes = (f"train.optim.batch_size={batch}", f"train.optim.micro_batch_size={batch}")
    spec = short_job(*sizes, max_steps=steps)
    async with fleet.client() as client:
        await client.fleet.list()  # connects
        await fleet.warmed("trl")
        begun = time.monotonic()
        job, events = await fleet.finish(client, (await client.jobs.create(spec)).name)
        seconds = time.monotonic() - begun
    assert job.state == JobState.JOB_STATE_SUCCEEDED, job
    told = [event for event in events if event.metrics.HasField("loss")]
    stepping = event_seconds(told[-1]) - event_seconds(told[0])
    return Measured(seconds=seconds, last_loss=told[-1].metrics.loss, steps_seconds=stepping), job


async def as_script(fleet: LocalFleet, job: Job, folder: Path) -> Measured:
    """Run what a job resolved to as a bare script."""
    resolved = job.resolved_spec
    train = resolved.spec.train
    asked = {
        "base": resolved.base.path,
        "data": train.data.train[0].source,
        "cache": str(folder / "cache"),
        "output": str(folder / "output"),
        "rank": train.adapter.lora.rank,
        "alpha": train.adapter.lora.alpha,
        "dropout": train.adapter.lora.dropout,
        "targets": list(resolved.target_modules),
        "max_length": train.max_length,
        "batch": train.optim.batch_size,
        "steps": train.optim.max_steps,
        "learning_rate": train.optim.learning_rate,
        "warmup_steps": math.ceil(train.optim.warmup_ratio * train.optim.max_steps),
        "max_grad_norm": train.optim.max_grad_norm,
        "weight_decay": train.optim.weight_decay,
        "seed": train.seed,
    }
    begun = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        backend_python(),
        str(_BARE),
        json.dumps(asked),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=fleet.environment,
        cwd=folder,
    )
    async with asyncio.timeout(600):
        stdout, stderr = await process.communicate()
    seconds = time.monotonic() - begun
    assert process.returncode == 0, stderr.decode()[-3000:]
    return Measured(seconds=seconds, last_loss=json.loads(stdout.decode().splitlines()[-1])["last_loss"])


async def compare(fleet: LocalFleet, pairs: int, batch: int, steps: int) -> dict[str, object]:
    jobs: list[Measured] = []
    scripts: list[Measured] = []
    for _ in range(pairs):
        measured, job = await through_fleet(fleet, batch, steps)
        jobs.append(measured)
        await fleet.warmed("trl")  # or the next host's imports would slow the script
        with tempfile.TemporaryDirectory() as folder:
            scripts.append(await as_script(fleet, job, Path(folder)))
    ratios = [job.seconds / script.seconds for job, script in zip(jobs, scripts, strict=True)]
    losses = {item.last_loss for item in (*jobs, *scripts)}
    return {
        "batch": batch,
        "steps": steps,
        "job_seconds": spread(item.seconds for item in jobs),
        "job_steps_seconds": spread(item.steps_seconds for item in jobs),
        "script_seconds": spread(item.seconds for item in scripts),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_worst": round(max(ratios), 3),
        "last_loss": sorted(losses),
        "same_loss": math.isclose(min(losses), max(losses), rel_tol=1e-4),
    }


async def run(pairs: int) -> list[dict[str, object]]:
    async with measured_fleet() as fleet:
        short = [await compare(fleet, pairs, batch, _SHORT) for batch in (2, 8)]
        return [*short, await compare(fleet, 1, 8, _LONG)]


def main() -> None:
    pairs, output = trials_and_output(__doc__, trials=3)
    results = asyncio.run(run(pairs))
    report(
        "wall_time",
        promises={"ratio_median": "<= 0.35 for 40 steps, <= 1.01 for a long job"},
        results=results,
        output=output,
    )


if __name__ == "__main__":
    main()
