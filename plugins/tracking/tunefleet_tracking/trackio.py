"""trackio: one SQLite file per project, shown by `trackio show`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunefleet.backend.v1.tracker_pb2 import TrackedRun
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet_core.tracking import project_of
from tunefleet_tracking.settings import settings

__all__ = ["TrackioTracker"]


class TrackioTracker:
    """A run of trackio, kept in `<folder>/trackio`."""

    def begin(self, run: TrackedRun, key: str) -> str:
        """Begin the run."""
        folder = Path(run.program.folder) / "trackio"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["TRACKIO_DIR"] = str(folder)  # read while the library is imported
        import trackio

        project = project_of(run.program.tracker)
        self._run: Any = trackio.init(
            project=project,
            name=run.name,
            group=run.job.rpartition("/")[2],
            config=settings(run),
            embed=False,
            auto_log_gpu=False,  # this process is not the one whose use of the machine counts
            auto_log_cpu=False,
        )
        return f"trackio: TRACKIO_DIR={folder} trackio show --project {project} shows the run '{run.name}'."

    def keep(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log the numbers of a step."""
        self._run.log(dict(numbers), step=step)

    def end(self, outcome: AttemptOutcome.ValueType) -> None:
        """Write what is queued."""
        self._run.finish()
