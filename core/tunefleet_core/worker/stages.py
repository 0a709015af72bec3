"""Stages of a run that takes no steps: a merge, an export in a format."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.job.v1.event_pb2 import Metrics, RunPhase
from tunefleet_core.backend.contract import RunContext, RunStopped

__all__ = ["stage_teller"]


def stage_teller(context: RunContext, stages: Sequence[str]) -> Callable[[int], None]:
    """Return what is called with the number of stages that are done, 0 before the first.

    It tells them as steps, and ends a run that is to stop.

    Raises:
        RunStopped: by what is returned: the run was asked to stop.
    """

    def told(done: int) -> None:
        if context.stop_requested() != StopMode.STOP_MODE_UNSPECIFIED:
            raise RunStopped(f"stopped before '{stages[done]}'" if done < len(stages) else "stopped")
        context.enter(RunPhase.RUN_PHASE_WORKING if done else RunPhase.RUN_PHASE_LOADING)
        context.metrics(Metrics(step=done, total_steps=len(stages)))

    return told
