"""What a job resolved to, run as a bare script of the library behind its backend."""

from __future__ import annotations

import asyncio
import json
import math
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measured_fleet import LocalFleet, backend_python
from measured_processes import watched

from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec

__all__ = ["Measured", "as_script"]

_HERE = Path(__file__).parent
_LIMIT_SECONDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run, either way.

    Attributes:
        seconds: From its start to its end.
        cpu_seconds: Processor time of all that worked for it.
        peak_bytes: Most memory of the processes that train, summed.
        last_loss: Of the last step.
        steps_seconds: From the first to the last step; of jobs alone.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    last_loss: float
    steps_seconds: float = 0.0


async def as_script(fleet: LocalFleet, job: Job, *, is_own_order: bool = False) -> Measured:
    """Run what a job resolved to as a bare script, in processes of its own.

    Args:
        fleet: Whose environment it gets.
        job: A job that has succeeded.
        is_own_order: Leave the order of rows to the library, where the script could set it.
    """
    resolved = job.resolved_spec
    backend = resolved.spec.backend
    devices = resolved.spec.resources.devices or 1
    python = backend_python(backend)
    with tempfile.TemporaryDirectory() as folder:
        asked = _asked(resolved, Path(folder))
        if backend == "mlx" and not is_own_order:
            asked["order"] = await _order(python, resolved, fleet.environment)
        begun, cpu_before = time.monotonic(), _children_cpu_seconds()
        process = await asyncio.create_subprocess_exec(
            python,
            *_launcher(devices),
            str(_HERE / f"bare_{backend}.py"),
            json.dumps(asked),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=fleet.environment,
            cwd=folder,
        )
        async with asyncio.timeout(_LIMIT_SECONDS), watched(process.pid) as watch:
            stdout, stderr = await process.communicate()
        seconds = time.monotonic() - begun
    assert process.returncode == 0, stderr.decode()[-3000:]
    told = next(line for line in reversed(stdout.decode().splitlines()) if line.startswith("{"))
    return Measured(
        seconds=seconds,
        cpu_seconds=_children_cpu_seconds() - cpu_before,
        peak_bytes=watch.peaks(lambda command: command[:1] == [python], count=devices),
        last_loss=json.loads(told)["last_loss"],
    )


def _launcher(devices: int) -> list[str]:
    """Return what starts a process per device, at a port that is free."""
    if devices == 1:
        return []
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(devices)]


def _asked(resolved: ResolvedSpec, folder: Path) -> dict[str, Any]:
    train = resolved.spec.train
    options = resolved.spec.backend_options
    return {
        "base": resolved.base.path,
        "data": train.data.train[0].source,
        "cache": str(folder / "cache"),
        "output": str(folder),
        "rank": train.adapter.lora.rank,
        "alpha": train.adapter.lora.alpha,
        "dropout": train.adapter.lora.dropout,
        "targets": _targets(resolved),
        "max_length": train.max_length,
        "batch": train.optim.batch_size,
        "steps": train.optim.max_steps,
        "learning_rate": train.optim.learning_rate,
        "warmup_steps": math.ceil(train.optim.warmup_ratio * train.optim.max_steps),
        "max_grad_norm": train.optim.max_grad_norm,
        "weight_decay": train.optim.weight_decay,
        "seed": train.seed,
        "zero_stage": int(options["zero_stage"]) if "zero_stage" in options else 3,
        "order": [],
        "compile": False,
    }


def _targets(resolved: ResolvedSpec) -> list[str]:
    """Return the target modules as the library names them: mlx-lm within a layer, PEFT from the top."""
    names = list(resolved.target_modules)
    if resolved.spec.backend != "mlx":
        return names
    within = [name.split(".layers.", 1)[-1].partition(".")[2] for name in names]
    return sorted(set(within))


async def _order(python: str, resolved: ResolvedSpec, environment: dict[str, str]) -> list[int]:
    """Return the rows of a run of one epoch in the order in which the backend `mlx` takes them."""
    train = resolved.spec.train
    program = (
        "import json\nfrom tunefleet_mlx.schedule import epoch_order\n"
        f"print(json.dumps(epoch_order({resolved.mask_audit.rows}, {train.seed})))"
    )
    process = await asyncio.create_subprocess_exec(
        python, "-c", program, stdout=asyncio.subprocess.PIPE, env=environment
    )
    stdout, _ = await process.communicate()
    order = json.loads(stdout)
    taken = train.optim.max_steps * train.optim.batch_size
    assert taken <= len(order), "the script knows one epoch"
    return order[:taken]


def _children_cpu_seconds() -> float:
    """Return the processor time of children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
