"""The Python base of the backend contract: what a plugin author writes.

A backend ships a manifest and up to two classes, named in the manifest as
`module:attribute` and imported only where they work:

- a `Rank` runs inside a *rank process*, the only place where torch or mlx is
  imported. It trains, evaluates, and audits rows.
- an `EngineDriver` runs inside the light *contract host*. It knows the command
  line of an engine and how to load an adapter into it.

Everything else (processes, pipes, events, checkpoints on disk, stopping) is done
by `tunefleet_core.worker`. A backend in another language implements
`tunefleet/backend/v1/backend_service.proto` itself and needs none of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tunefleet.backend.v1.inspect_pb2 import AuditOrder, AuditResult
from tunefleet.backend.v1.run_pb2 import RunOrder, RunOutput, StopMode
from tunefleet.backend.v1.server_pb2 import AdapterOrder, EngineOrder
from tunefleet.job.v1.event_pb2 import JobEvent, Metrics, Preflight, RunPhase

__all__ = ["EngineCommand", "EngineDriver", "Rank", "RunContext", "RunStopped"]


class RunStopped(Exception):
    """Raised by a rank to end a run that was asked to stop, once it has saved what it should."""


class RunContext(Protocol):
    """What a rank gets to work with, and how it tells what happens."""

    @property
    def order(self) -> RunOrder:
        """What to run. `order.resolved_spec` is the only source of truth.

        With `order.place` this process is one of several, one per device; each is given the
        order. What one of them tells is passed on from the first one only, and only that one
        may write checkpoints and output.
        """
        ...

    def enter(self, phase: RunPhase.ValueType) -> None:
        """Tell that the run entered another phase (LOADING, PREFLIGHT, WORKING, SAVING)."""
        ...

    def metrics(self, metrics: Metrics) -> None:
        """Tell the numbers of a step. Call it every step; it is batched."""
        ...

    def preflight(self, found: Preflight) -> None:
        """Tell what was tried and measured before the first step."""
        ...

    def sample(self, step: int, prompt: str, answer: str) -> None:
        """Tell the model's answer to a fixed prompt."""
        ...

    def notice(self, text: str, *, hint: str = "", severity: str = "warning") -> None:
        """Tell a person something: one sentence of fact, one imperative."""
        ...

    def tell(self, event: JobEvent) -> None:
        """Tell what the methods above have no words for, such as `best_checkpoint` or `rollback`."""
        ...

    def checkpoint(self, step: int) -> AbstractContextManager[Path]:
        """Write a checkpoint, whole or not at all.

        Yields an empty folder. When the block ends it is synced to disk, moved
        to its final name and reported; when the block raises it is removed.

        Example:
            with context.checkpoint(step) as folder:
                save_state(folder)
        """
        ...

    def writing_output(self) -> AbstractContextManager[Path]:
        """Write the output, whole or not at all; as `checkpoint`."""
        ...

    def save_requested(self) -> bool:
        """Return whether a checkpoint was asked for since the last one began. Ask at every step.

        Write one then with `checkpoint`, and go on. A backend that asks declares the capability
        CHECKPOINT_ON_REQUEST.
        """
        ...

    def stop_requested(self) -> StopMode.ValueType:
        """Return how the run should stop, UNSPECIFIED to go on. Ask at every step.

        On SAVE write a checkpoint, then raise RunStopped; on CANCEL raise at once.
        """
        ...


class Rank(Protocol):
    """Runs in a rank process: one run, then the process exits."""

    def warm(self) -> None:
        """Import what a run needs. Touch no tensor and no device: the process may wait for hours."""
        ...

    def run(self, context: RunContext) -> RunOutput:
        """Work to the end and return what was written with `writing_output`.

        Raises:
            RunStopped: the run was asked to stop and did.
            TunefleetError: it failed; the reason decides whether it is retried.
        """
        ...

    def audit(self, order: AuditOrder) -> AuditResult:
        """Tokenise rows and report the loss mask. Needs no weights and no device.

        Raises:
            TunefleetError: DATA_INVALID naming line and field, BASE_INVALID.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCommand:
    """How to start an engine; one that does not answer `start_seconds` later has failed to."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    address: str = ""
    start_seconds: float = 300.0


class EngineDriver(Protocol):
    """Runs in the contract host: knows one engine's command line and control calls."""

    def command(self, order: EngineOrder, port: int) -> EngineCommand:
        """Return the command that serves `order` on a loopback port."""
        ...

    async def is_ready(self, address: str) -> bool:
        """Return whether the engine answers. Never raises.

        Asked until it first does, and from then on every half minute: an engine that does not
        answer three times in a row is ended, and started again by whoever wants it.
        """
        ...

    async def load_adapter(self, address: str, order: AdapterOrder) -> None:
        """Load an adapter. Raises TunefleetError/BACKEND_FAILED; then nothing has changed."""
        ...

    async def unload_adapter(self, address: str, adapter: str) -> None:
        """Drop an adapter; succeeds if it is not loaded."""
        ...
