"""Orders, and a run context in memory; tiny models come from an environment that has torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tunefleet.backend.v1.run_pb2 import RunOrder, StopMode
from tunefleet.job.v1.event_pb2 import Metrics, RunPhase
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.catalog.base import read_base

__all__ = ["MODEL_TYPES", "MemoryContext", "build_model", "order"]

MODEL_TYPES = ("qwen3", "llama")
_BUILDER = Path(__file__).resolve().parents[2] / "gguf" / "tests" / "tiny_trained.py"


def build_model(folder: Path, *, model_type: str, dtype: str = "float32") -> Path:
    """Write a model whose weights moved from others, and the record of that, measured by torch."""
    python = os.environ.get("TUNEFLEET_TEST_TRL_PYTHON")
    if not python:
        pytest.skip("models are made by the trl environment: name its python in TUNEFLEET_TEST_TRL_PYTHON")
    command = [python, str(_BUILDER), str(folder), "--class", model_type, "--dtype", dtype]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def order(model: Path, work_dir: Path, *, variant: str = "4bit") -> RunOrder:
    """Return an order to export a whole model."""
    resolved = ResolvedSpec(base=read_base(model))
    resolved.spec.name = "small"
    resolved.spec.backend = "mlx"
    resolved.spec.export.model.model = "models/tiny"
    resolved.spec.export.quantize.format = "mlx"
    resolved.spec.export.quantize.variant = variant
    return RunOrder(
        run="small-1", attempt=1, resolved_spec=resolved, work_dir=str(work_dir), device_ids=["cpu-0"],
        threads=1,
    )  # fmt: skip


class MemoryContext:
    """A RunContext that keeps what is told; `stop_when` decides on stops."""

    def __init__(self, order: RunOrder, *, stop_when: Callable[[MemoryContext], bool] | None = None) -> None:
        self.order = order
        self._stop_when = stop_when
        self.told: list[Metrics] = []
        self.notices: list[str] = []

    @property
    def work_dir(self) -> Path:
        return Path(self.order.work_dir)

    @property
    def output(self) -> Path:
        return self.work_dir / "output"

    @property
    def step(self) -> int:
        return max((metrics.step for metrics in self.told), default=0)

    def enter(self, phase: RunPhase.ValueType) -> None:
        pass

    def metrics(self, metrics: Metrics) -> None:
        self.told.append(metrics)

    def notice(self, text: str, *, hint: str = "", severity: str = "warning") -> None:
        self.notices.append(text)

    @contextmanager
    def writing_output(self) -> Iterator[Path]:
        partial = self.work_dir / "output.partial"
        partial.mkdir(parents=True)
        try:
            yield partial
        except BaseException:
            shutil.rmtree(partial)
            raise
        partial.rename(self.output)

    def save_requested(self) -> bool:
        return False

    def stop_requested(self) -> StopMode.ValueType:
        stops = self._stop_when is not None and self._stop_when(self)
        return StopMode.STOP_MODE_CANCEL if stops else StopMode.STOP_MODE_UNSPECIFIED
