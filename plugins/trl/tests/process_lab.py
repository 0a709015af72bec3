"""A run in its own rank processes, as a contract host drives them: spawned, ordered, stopped, killed."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trl_lab as lab

from tunefleet.backend.v1.run_pb2 import Run, RunOrder
from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent
from tunefleet_core.testing.rank_parents import rank_parent
from tunefleet_core.worker.hosted_run import HostedRun
from tunefleet_core.worker.rank_group import RankGroup
from tunefleet_core.worker.rank_process import RankProcess

__all__ = [
    "ENTRY",
    "EVERY",
    "STEPS",
    "Hosted",
    "alone",
    "drive",
    "killed_after",
    "order_of",
    "output_bytes",
    "resumed",
    "run_hosted",
    "run_in_new_process",
    "small_disk",
]

ENTRY = "tunefleet_trl.rank:TrlRank"
STEPS = 8
EVERY = 3
LIMIT_SECONDS = 600.0  # the libraries are imported once per process; a busy machine takes its time


@dataclass(slots=True, kw_only=True)
class Hosted:
    """A run and what was seen of it."""

    order: RunOrder
    run: HostedRun
    processes: list[RankProcess]
    events: list[JobEvent] = field(default_factory=list[JobEvent])

    @property
    def losses(self) -> dict[int, float]:
        """Losses by step."""
        told = (event.metrics for event in self.events if event.metrics.HasField("loss"))
        return {metrics.step: metrics.loss for metrics in told}

    @property
    def validation_losses(self) -> list[float]:
        """Validation losses in their order."""
        told = (event.metrics for event in self.events)
        return [metrics.validation_loss for metrics in told if metrics.HasField("validation_loss")]

    @property
    def printed(self) -> str:
        """What the processes printed."""
        return "\n".join(line for event in self.events for line in event.log_lines.lines)

    @property
    def ended(self) -> Run:
        """How it ended."""
        return self.run.describe()


def order_of(
    base: Path,
    folder: Path,
    *,
    adaptation: str = "lora",
    model_type: str = "qwen3",
    dropout: float = 0.0,
    packing: bool = False,
) -> RunOrder:
    """Return an order for 8 steps of 4 rows, one at a time, over 16 rows of different lengths."""
    spec = lab.adapted_spec(adaptation, steps=STEPS, micro_batch_size=1)
    if adaptation != "full":
        spec.train.adapter.lora.dropout = dropout
    spec.train.method.sft.packing = packing
    spec.train.checkpoint.every_steps = EVERY
    rows = [lab.chat(word, answer + "!" * number) for number, (word, answer) in enumerate(lab.PAIRS * 4)]
    if packing:  # of one length, two to a sequence: as many sequences as two steps take
        rows = [lab.chat(f"{number:02d}", f"{number * 7:03d}") for number in range(16)]
        spec.train.max_length = 80
    folder.mkdir(parents=True, exist_ok=True)
    data = [
        ("train", lab.write_rows(folder / "train.jsonl", rows)),
        ("validation", lab.write_rows(folder / "validation.jsonl", rows[:5])),
    ]
    return lab.order(lab.resolved(base, model_type=model_type, data=data, spec=spec), folder / "work")


def resumed(order: RunOrder, folder: Path, step: int) -> RunOrder:
    """Return the same order in another folder, from a checkpoint of the first."""
    again = RunOrder()
    again.CopyFrom(order)
    again.work_dir, again.resume_step = str(folder), step
    again.resume_from = str(Path(order.work_dir) / "checkpoints" / f"step-{step:08d}")
    return again


def alone(order: RunOrder) -> dict[str, Any]:
    """Run the order in this process and return its figures."""
    from tunefleet_trl.rank import TrlRank  # light until it runs

    context = lab.MemoryContext(order)
    TrlRank().run(context)
    told = [metrics for metrics in context.told if metrics.HasField("loss")]
    return {
        "losses": {metrics.step: metrics.loss for metrics in told},
        "tokens": [metrics.tokens for metrics in told],
        "validation": [item.validation_loss for item in context.told if item.HasField("validation_loss")],
    }


def output_bytes(order: RunOrder) -> dict[str, bytes]:
    """Return the files that a run left."""
    return {path.name: path.read_bytes() for path in (Path(order.work_dir) / "output").iterdir()}


@contextmanager
def small_disk(folder: Path, *, kibibytes: int) -> Iterator[Path]:
    """Mount a disk of so many KiB; skips the test where that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield folder
    finally:
        # Lazily: the traceback of the error may hold a file open.
        subprocess.run(["umount", "-l", str(folder)], check=True)


def run_in_new_process(order: RunOrder) -> None:
    """Run an order in a rank process of its own; it has to succeed."""
    ended = run_hosted(order, ENTRY, processes=1).ended
    assert ended.outcome == AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED, ended


def killed_after(order: RunOrder, step: int) -> int:
    """Kill the rank process of an order once a checkpoint is there; return the step of its newest one."""

    async def kill(hosted: Hosted, event: JobEvent) -> None:
        if event.checkpoint_saved.step == step:
            hosted.processes[0].process.send_signal(signal.SIGKILL)

    ended = run_hosted(order, ENTRY, processes=1, watch=kill).ended
    assert ended.outcome == AttemptOutcome.ATTEMPT_OUTCOME_FAILED, "it ended before it was killed"
    assert not (Path(order.work_dir) / "output").exists()
    return max(checkpoint.step for checkpoint in ended.checkpoints)


Watch = Callable[[Hosted, JobEvent], Awaitable[None]]


def run_hosted(order: RunOrder, entry: str, *, processes: int, watch: Watch | None = None) -> Hosted:
    """Run an order in a number of rank processes; `watch` sees every event as it comes."""
    return asyncio.run(drive(order, entry, processes=processes, watch=watch))


async def drive(order: RunOrder, entry: str, *, processes: int, watch: Watch | None = None) -> Hosted:
    """The same, for callers that have a loop."""
    order.device_ids[:] = [f"cpu-{number}" for number in range(processes)]
    if processes > 1:
        order.resolved_spec.spec.resources.devices = processes
    order.threads = 1
    ranks = [await RankProcess.fork(rank_parent(entry)) for _ in range(processes)]
    for rank in ranks:
        report = await rank.next_report()
        assert report is not None
        assert report.HasField("warm")
    Path(order.work_dir).mkdir(parents=True, exist_ok=True)
    hosted = Hosted(order=order, run=HostedRun(order, RankGroup(ranks)), processes=ranks)
    async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(hosted.run.drive())
        async for batch in hosted.run.events(0):
            for event in batch:
                hosted.events.append(event)
                if watch is not None:
                    await watch(hosted, event)
    assert all(rank.process.returncode is not None for rank in ranks), "every process is reaped"
    return hosted
