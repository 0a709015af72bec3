"""A fake fleet whose job moves, to look at the live view by eye.

Run it, then `TUNEFLEET_STATE=DIR tunefleet jobs watch tickets-to-json-ab12`.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import catalog_samples
import deployment_samples as served
import sample_names
import samples

from tunefleet.job.v1.event_pb2 import (
    AttemptStarted,
    CheckpointCommitted,
    JobEvent,
    LogLines,
    Metrics,
    Notice,
    PhaseChanged,
    RunPhase,
)
from tunefleet.job.v1.state_pb2 import CheckpointRef, JobState
from tunefleet_client.testing import FakeCoordinator

NAME = f"{sample_names.JOBS}/tickets-to-json-ab12"
STEPS = 300


async def run_job(fake: FakeCoordinator, *, step_seconds: float, fails: bool) -> None:
    """Move the sample job from PENDING to its end."""
    pause = max(step_seconds * 5, 0.05)
    await asyncio.sleep(pause)
    await fake.move(NAME, JobState.JOB_STATE_PREPARING)
    started = AttemptStarted(service="services/laptop-trainer", fencing_number=1, device_ids=["cpu-0"])
    fake.jobs[NAME].attempt = 1
    await say(fake, attempt_started=started)
    for phase in (RunPhase.RUN_PHASE_STARTING, RunPhase.RUN_PHASE_LOADING, RunPhase.RUN_PHASE_WORKING):
        await say(fake, phase_changed=PhaseChanged(phase=phase))
        await asyncio.sleep(pause)
    await fake.move(NAME, JobState.JOB_STATE_RUNNING)
    await say(fake, notice=Notice(severity="warning", text="4 of 312 rows are longer and are dropped."))
    for step in range(1, STEPS + 1):
        await say(fake, metrics=numbers(step))
        if step % 20 == 0:
            line = f"{{'loss': {loss(step):.4f}, 'epoch': {step / 100:.2f}}}"
            await say(fake, log_lines=LogLines(stream="stdout", lines=[line]))
        if step % 100 == 0:
            saved = CheckpointRef(step=step, attempt=1)
            await say(fake, checkpoint_committed=CheckpointCommitted(checkpoint=saved))
        if fails and step == 170:
            fake.jobs[NAME].error.message = "The process ran out of memory."
            await fake.move(NAME, JobState.JOB_STATE_FAILED)
            return
        await asyncio.sleep(step_seconds)
    for phase in (RunPhase.RUN_PHASE_SAVING, RunPhase.RUN_PHASE_UPLOADING):
        await say(fake, phase_changed=PhaseChanged(phase=phase))
        await asyncio.sleep(pause)
    fake.jobs[NAME].result.model = "projects/default/models/tickets-to-json-ab12"
    fake.jobs[NAME].end_time.GetCurrentTime()
    await fake.move(NAME, JobState.JOB_STATE_SUCCEEDED)


async def say(fake: FakeCoordinator, **payload: object) -> None:
    event = JobEvent(attempt=1, **payload)  # pyright: ignore[reportArgumentType] - one of the payloads
    event.create_time.GetCurrentTime()
    await fake.append(NAME, event)


def loss(step: int) -> float:
    return 0.25 + 2.1 * math.exp(-step / 55) + random.Random(step).uniform(-0.06, 0.06)


def numbers(step: int) -> Metrics:
    rate = 2e-4 * min(1.0, step / 10) * (0.5 + 0.5 * math.cos(math.pi * step / STEPS))
    return Metrics(
        step=step,
        total_steps=STEPS,
        epoch=step / 100,
        loss=loss(step),
        validation_loss=loss(step) + 0.08 if step % 30 == 0 else None,
        learning_rate=rate,
        grad_norm=0.4,
        tokens_per_second=random.Random(step).uniform(11_500, 12_600),
        peak_memory_bytes=1_610_612_736,
        tokens=step * 2_000,
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--step-seconds", type=float, default=0.05)
    parser.add_argument("--fails", action="store_true")
    options = parser.parse_args()
    async with FakeCoordinator() as fake:
        fake.jobs = {job.name: job for job in samples.jobs()}
        fake.models = {model.name: model for model in samples.models()}
        fake.deployments = {item.name: item for item in served.deployments()}
        fake.services, fake.plugins, fake.plan = samples.services(), catalog_samples.plugins(), samples.plan()
        job = fake.jobs[NAME]
        job.state, job.attempt, job.service = JobState.JOB_STATE_PENDING, 0, ""
        job.ClearField("progress")
        job.start_time.GetCurrentTime()
        fake.write_state(options.state)
        print(f"export TUNEFLEET_STATE={options.state}", flush=True)
        await run_job(fake, step_seconds=options.step_seconds, fails=options.fails)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
