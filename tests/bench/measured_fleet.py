"""What the benchmarks of a whole fleet share: the fleet, the jobs, the clock and the report.

Times of events come from their own `create_time`; everything runs on one machine, so all of
them are of one clock. Figures are for one machine at one moment: compare ratios, not seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TESTS / "e2e"), str(_TESTS / "chaos")]

from chaos_fleet import ChaosFleet, Timeline, echo_job  # noqa: E402  # the path to it is set above
from local_fleet import ENVIRONMENTS, LocalFleet, missing_backend, tickets_job  # noqa: E402  # as above

from tunefleet.job.v1.event_pb2 import JobEvent, RunPhase  # noqa: E402  # after the path, as above
from tunefleet.job.v1.spec_pb2 import JobSpec  # noqa: E402  # after the path, as above

__all__ = [
    "ChaosFleet",
    "LocalFleet",
    "Timeline",
    "backend_python",
    "echo_job",
    "event_seconds",
    "is_metrics_of",
    "measured_fleet",
    "phase_seconds",
    "report",
    "short_job",
    "spread",
    "trials_and_output",
    "trials_backend_and_output",
]

_PACKAGES = {
    "trl": ("torch", "transformers", "trl", "peft"),
    "mlx": ("mlx", "mlx-lm", "transformers"),
    "deepspeed": ("torch", "transformers", "trl", "peft", "deepspeed", "accelerate"),
}


@asynccontextmanager
async def measured_fleet(*backends: str, warm: bool = True, devices: int = 1) -> AsyncIterator[LocalFleet]:
    """Run a fleet on a state folder of its own; nothing of it is left afterwards.

    Args:
        backends: Those that it needs beside trl and the embedded engine.
        warm: Whether processes wait with their imports done.
        devices: Devices that its processors count as.
    """
    if missing := missing_backend("trl", "embedded", *backends):
        sys.exit(missing)
    root = Path(tempfile.mkdtemp(prefix="tf-bench-", dir="/tmp"))  # unix sockets need short paths
    fleet = LocalFleet(root, warm=warm, extra={"TUNEFLEET_CPU_DEVICES": str(devices)})
    try:
        await fleet.start()
        yield fleet
    finally:
        await fleet.close()
        shutil.rmtree(root, ignore_errors=True)


def short_job(*overrides: str, max_steps: int) -> JobSpec:
    """Return the tickets job without validation, for so many steps."""
    spec = tickets_job(*overrides, max_steps=max_steps)
    spec.train.data.validation = ""
    return spec


def is_metrics_of(attempt: int, step: int = 0) -> Callable[[JobEvent], bool]:
    """Return a test for events with numbers of an attempt's later steps."""
    return lambda event: event.attempt == attempt and event.metrics.step > step


def event_seconds(event: JobEvent) -> float:
    """Return when an event happened, seconds since the epoch."""
    return event.create_time.ToNanoseconds() / 1e9


def phase_seconds(timeline: Timeline, attempt: int, phase: RunPhase.ValueType) -> float:
    """Return when an attempt first entered a phase, seconds since the epoch."""
    found = timeline.find(lambda event: event.attempt == attempt and event.phase_changed.phase == phase)
    assert found is not None
    return event_seconds(found)


def backend_python(backend: str = "trl") -> str:
    """Return the interpreter of a backend's environment."""
    index = json.loads((ENVIRONMENTS / "index.json").read_text())
    return str(index["environments"][backend]["python"])


def spread(seconds: Iterable[float]) -> dict[str, float]:
    """Return median, least and most of some times in seconds."""
    values = list(seconds)
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
        "count": len(values),
    }


def trials_and_output(description: str | None, *, trials: int) -> tuple[int, Path | None]:
    """Read the options that every benchmark of a fleet has."""
    options = _parser(description, trials=trials).parse_args()
    return options.trials, options.output


def trials_backend_and_output(
    description: str | None, *, trials: int, backends: Sequence[str]
) -> tuple[int, str, Path | None]:
    """Read the options of a benchmark that knows several backends; the first is the default."""
    parser = _parser(description, trials=trials)
    parser.add_argument("--backend", choices=backends, default=backends[0])
    options = parser.parse_args()
    return options.trials, options.backend, options.output


def _parser(description: str | None, *, trials: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=trials)
    parser.add_argument("--output", type=Path, help="write the document there too")
    return parser


def report(
    name: str, *, promises: dict[str, str], results: Any, output: Path | None, backend: str = "trl"
) -> None:
    """Print one JSON document."""
    document = {
        "benchmark": name,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "versions": _versions(backend),
        "promises": promises,
        "results": results,
    }
    text = json.dumps(document, indent=2)
    print(text)
    if output:
        output.write_text(text + "\n")


def _machine() -> dict[str, Any]:
    model = ""
    with suppress(OSError):  # not Linux
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    return {
        "system": platform.platform(),
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def _versions(backend: str) -> dict[str, str]:
    program = (
        "import importlib.metadata as m, json, platform\n"
        f"found = {{name: m.version(name) for name in {_PACKAGES[backend]!r}}}\n"
        "print(json.dumps({'python': platform.python_version(), **found}))\n"
    )
    command = [backend_python(backend), "-c", program]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
