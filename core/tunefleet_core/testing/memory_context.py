"""A run context in memory: a rank runs in the process of its test, and what it tells can be read.

Example:
    context = MemoryContext(order)
    output = MyRank().run(context)
    assert context.told[-1].loss < context.told[0].loss
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunefleet.backend.v1.run_pb2 import RunOrder, StopMode
from tunefleet.job.v1.event_pb2 import JobEvent, Metrics, Preflight, RunPhase
from tunefleet_core.artifacts.writing import write_whole_folder

__all__ = ["MemoryContext"]


class MemoryContext:
    """Keeps everything told. Checkpoints and output are written where a fleet has them, whole or not at all.

    Args:
        order: What to run.
        stop_when: Decides on stops, asked at every step; returns a StopMode.
        save_when: Decides whether a checkpoint is asked for.
    """

    def __init__(
        self,
        order: RunOrder,
        *,
        stop_when: Callable[[MemoryContext], StopMode.ValueType] | None = None,
        save_when: Callable[[MemoryContext], bool] | None = None,
    ) -> None:
        self._order = order
        self._stop_when = stop_when
        self._save_when = save_when
        self.phases: list[int] = []
        self.told: list[Metrics] = []
        self.notices: list[str] = []
        self.preflights: list[Preflight] = []
        self.checkpoints: list[int] = []
        self.events: list[JobEvent] = []
        self.history: list[JobEvent] = []  # numbers and events in their order, as a fleet keeps them
        self.samples: list[tuple[int, str, str]] = []

    @property
    def order(self) -> RunOrder:
        return self._order

    @property
    def work_dir(self) -> Path:
        """Where the run works."""
        return Path(self._order.work_dir)

    @property
    def output(self) -> Path:
        """Where its output is, once there is one."""
        return self.work_dir / "output"

    @property
    def step(self) -> int:
        return max((metrics.step for metrics in self.told), default=0)

    def checkpoint_folder(self, step: int) -> Path:
        return self.work_dir / "checkpoints" / f"step-{step:08d}"

    def enter(self, phase: RunPhase.ValueType) -> None:
        self.phases.append(phase)

    def metrics(self, metrics: Metrics) -> None:
        self.told.append(metrics)
        self.history.append(JobEvent(metrics=metrics))

    def preflight(self, found: Preflight) -> None:
        self.preflights.append(found)

    def sample(self, step: int, prompt: str, answer: str) -> None:
        self.samples.append((step, prompt, answer))

    def notice(self, text: str, *, hint: str = "", severity: str = "warning") -> None:
        self.notices.append(text)

    def tell(self, event: JobEvent) -> None:
        self.events.append(event)
        self.history.append(event)

    def events_of(self, kind: str) -> list[Any]:
        """Return the payloads of one kind of event."""
        return [getattr(event, kind) for event in self.events if event.WhichOneof("payload") == kind]

    @contextmanager
    def checkpoint(self, step: int) -> Generator[Path]:
        with write_whole_folder(self.checkpoint_folder(step)) as folder:
            yield folder
        self.checkpoints.append(step)

    @contextmanager
    def writing_output(self) -> Generator[Path]:
        with write_whole_folder(self.output) as folder:
            yield folder

    def save_requested(self) -> bool:
        return self._save_when is not None and self._save_when(self)

    def stop_requested(self) -> StopMode.ValueType:
        return self._stop_when(self) if self._stop_when else StopMode.STOP_MODE_UNSPECIFIED
