"""Orders, and a run context in memory; tiny models come from `tiny_trained`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tiny_trained import MODEL_TYPES, build_model

from tunefleet.backend.v1.run_pb2 import RunOrder, StopMode
from tunefleet.job.v1.event_pb2 import Metrics, RunPhase
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.catalog.base import read_base

__all__ = ["MODEL_TYPES", "MemoryContext", "build_model", "order"]


def order(model: Path, work_dir: Path, *, variant: str = "q4_k_m", **options: Any) -> RunOrder:
    """Return an order to export a whole model."""
    resolved = ResolvedSpec(base=read_base(model))
    resolved.spec.name = "small"
    resolved.spec.backend = "gguf"
    resolved.spec.export.model.model = "models/tiny"
    resolved.spec.export.quantize.format = "gguf"
    resolved.spec.export.quantize.variant = variant
    resolved.spec.backend_options.update(options)
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

    def stop_requested(self) -> StopMode.ValueType:
        stops = self._stop_when is not None and self._stop_when(self)
        return StopMode.STOP_MODE_CANCEL if stops else StopMode.STOP_MODE_UNSPECIFIED
