"""MLflow: a tracking server, or a store in one SQLite file that `mlflow server` reads."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import MAX_PARAMS_TAGS_PER_BATCH

from tunefleet.backend.v1.tracker_pb2 import TrackedRun
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet_core.tracking import project_of
from tunefleet_tracking.settings import settings

__all__ = ["MlflowTracker"]

_LONGEST_VALUE = 6000
"""Of a parameter, in characters: https://mlflow.org/docs/latest/ml/tracking."""

_STATUS = {
    AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED: "FINISHED",
    AttemptOutcome.ATTEMPT_OUTCOME_PAUSED: "FINISHED",
    AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED: "KILLED",
}


class MlflowTracker:
    """A run of MLflow, by its client alone: its fluent interface would keep state of its own."""

    def begin(self, run: TrackedRun, key: str) -> str:
        """Make the experiment if there is none, and the run in it; without a server in `<folder>/mlflow`."""
        wanted = run.program.tracker
        folder = Path(run.program.folder) / "mlflow"
        store = wanted.url or f"sqlite:///{folder / 'mlflow.db'}"
        if key:
            os.environ["MLFLOW_TRACKING_TOKEN"] = key
        artifacts = None if wanted.url else (folder / "artifacts").as_uri()
        with _alone(folder) if not wanted.url else _nobody_waits():
            self._client = MlflowClient(tracking_uri=store)
            experiment = self._experiment(project_of(wanted), artifacts)
        self._run = self._client.create_run(
            experiment,
            run_name=run.name,
            tags={"tunefleet.job": run.job, "tunefleet.attempt": str(run.attempt)},
        ).info.run_id
        params = [Param(name, str(value)[:_LONGEST_VALUE]) for name, value in settings(run).items()]
        for at in range(0, len(params), MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(self._run, params=params[at : at + MAX_PARAMS_TAGS_PER_BATCH])
        if wanted.url:
            return f"MLflow: the run '{run.name}' of the experiment '{project_of(wanted)}' at {wanted.url}."
        return f"MLflow: mlflow server --backend-store-uri {store} shows the run '{run.name}'."

    def keep(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log the numbers of a step."""
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in numbers.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def end(self, outcome: AttemptOutcome.ValueType) -> None:
        """Set the status of the run."""
        word = AttemptOutcome.Name(outcome).removeprefix("ATTEMPT_OUTCOME_").lower()
        self._client.log_batch(self._run, tags=[RunTag("tunefleet.outcome", word)])
        self._client.set_terminated(self._run, _STATUS.get(outcome, "FAILED"))

    def _experiment(self, name: str, artifacts: str | None) -> str:
        """Return the id of an experiment; another run may make it at the same moment."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=artifacts))
            except MlflowException:
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder while its store is made: the library brings a new file to its schema unguarded."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _nobody_waits() -> Iterator[None]:
    yield
