"""Weights & Biases: online where the job names a key or a server, else a folder to `wandb sync`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from tunefleet.backend.v1.tracker_pb2 import TrackedRun
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet_core.tracking import project_of
from tunefleet_tracking.settings import settings

__all__ = ["WandbTracker"]

_CLOUD = "https://api.wandb.ai"
_STEP = "step"


class WandbTracker:
    """A run of W&B, in the group of its job."""

    def begin(self, run: TrackedRun, key: str) -> str:
        """Begin the run; what it keeps on this host lies in `<folder>/wandb`."""
        wanted = run.program.tracker
        is_online = bool(wanted.url or key)
        folder = Path(run.program.folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            project=project_of(wanted),
            entity=wanted.entity or None,
            name=run.name,
            group=run.job.rpartition("/")[2],
            job_type="train",
            dir=str(folder),
            config=settings(run),
            mode="online" if is_online else "offline",
            settings=wandb.Settings(
                base_url=wanted.url or _CLOUD,
                api_key=key or None,
                silent=True,
                console="off",
                disable_code=True,
                disable_git=True,
                save_code=False,
                x_disable_stats=True,  # this process is not the one whose use of the machine counts
                x_disable_machine_info=True,
            ),
        )
        # A number of its own, not the library's count, which never goes back as a rollback does.
        self._run.define_metric("*", step_metric=_STEP)
        if is_online:
            return f"W&B: {self._run.url or 'the run ' + run.name}."
        return f"W&B, offline: wandb sync {Path(self._run.dir).parent} uploads the run '{run.name}'."

    def keep(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log the numbers of a step."""
        self._run.log({_STEP: step, **numbers})

    def end(self, outcome: AttemptOutcome.ValueType) -> None:
        """Finish the run, as failed unless it succeeded or was paused."""
        well = (AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED, AttemptOutcome.ATTEMPT_OUTCOME_PAUSED)
        self._run.summary["outcome"] = AttemptOutcome.Name(outcome).removeprefix("ATTEMPT_OUTCOME_").lower()
        self._run.finish(exit_code=0 if outcome in well else 1)
