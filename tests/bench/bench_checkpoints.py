"""What a checkpoint costs a run: checkpoints every few steps against none, in pairs.

    python tests/bench/bench_checkpoints.py [--trials 3] [--output FILE]

Every weight of the example's base is trained by trl, so that a checkpoint has weights and both moments.
The rank writes it between two steps; its trainer uploads it while the next steps run, to a
coordinator on the same machine. One job of each pair saves every 5 steps, the other only at its end; which
goes first takes turns. Told apart: the time that steps took, processor time of the process that trains,
and that of all others, who carry the bytes away.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

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
from measured_processes import watched

from tunefleet.job.v1.state_pb2 import JobState

_STEPS, _EVERY, _BATCH = 60, 5, 2
_TRAINS, _CARRIES = "trains", "carries"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One job: checkpoints that were committed, times in seconds."""

    checkpoints: int
    steps_seconds: float
    trains_cpu_seconds: float
    carries_cpu_seconds: float


async def one_job(fleet: LocalFleet, every: int) -> Measured:
    """Run a job that saves so often."""
    sizes = (f"train.optim.batch_size={_BATCH}", f"train.optim.micro_batch_size={_BATCH}")
    often = (f"train.checkpoint.every_steps={every}", "train.optim.learning_rate=1e-4")
    spec = short_job(*sizes, *often, max_steps=_STEPS)
    spec.train.ClearField("adapter")
    python = backend_python()
    async with fleet.client() as client:
        await client.fleet.list()  # connects
        await fleet.warmed("trl")
        async with watched(fleet.pid("up")) as watch:
            job, events = await fleet.finish(client, (await client.jobs.create(spec)).name)
    assert job.state == JobState.JOB_STATE_SUCCEEDED, job
    cpu = watch.cpu_by(lambda command: _TRAINS if command[:1] == [python] else _CARRIES)
    told = [event for event in events if event.metrics.HasField("loss")]
    return Measured(
        checkpoints=sum(event.HasField("checkpoint_committed") for event in events),
        steps_seconds=event_seconds(told[-1]) - event_seconds(told[0]),
        trains_cpu_seconds=cpu.get(_TRAINS, 0.0),
        carries_cpu_seconds=cpu.get(_CARRIES, 0.0),
    )


async def run(pairs: int) -> dict[str, object]:
    """Run pairs and compare them."""
    often: list[Measured] = []
    never: list[Measured] = []
    async with measured_fleet() as fleet:
        await one_job(fleet, _STEPS)  # the first job of a fleet pays for what is opened once
        for pair in range(pairs):
            for saves in (True, False) if pair % 2 else (False, True):
                (often if saves else never).append(await one_job(fleet, _EVERY if saves else _STEPS))
    more = [one.checkpoints - other.checkpoints for one, other in zip(often, never, strict=True)]
    return {
        "steps": _STEPS,
        "checkpoints": [often[0].checkpoints, never[0].checkpoints],
        "steps_seconds_often": spread(item.steps_seconds for item in often),
        "steps_seconds_never": spread(item.steps_seconds for item in never),
        "ratio_median": round(
            statistics.median(
                one.steps_seconds / other.steps_seconds for one, other in zip(often, never, strict=True)
            ),
            3,
        ),
        "seconds_per_checkpoint": _per_checkpoint(
            [item.steps_seconds for item in often], [item.steps_seconds for item in never], more
        ),
        "training_cpu_seconds_per_checkpoint": _per_checkpoint(
            [item.trains_cpu_seconds for item in often], [item.trains_cpu_seconds for item in never], more
        ),
        "carrying_cpu_seconds_per_checkpoint": _per_checkpoint(
            [item.carries_cpu_seconds for item in often], [item.carries_cpu_seconds for item in never], more
        ),
    }


def _per_checkpoint(often: Sequence[float], never: Sequence[float], more: Sequence[int]) -> dict[str, float]:
    return spread((one - other) / count for one, other, count in zip(often, never, more, strict=True))


def main() -> None:
    pairs, output = trials_and_output(__doc__, trials=3)
    report("checkpoints", promises={}, results=asyncio.run(run(pairs)), output=output)


if __name__ == "__main__":
    main()
