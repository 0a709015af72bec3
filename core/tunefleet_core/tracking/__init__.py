"""Telling the numbers of a run to W&B, MLflow and their like, whatever the backend.

`contract.py` is what a plugin writes, `process.py` runs it in its own environment, one process for each
tracker and run; `run_trackers.py` feeds these from the contract host, and sees to it that none harms the run.
"""

from tunefleet_core.tracking.contract import Tracker, numbers_of, project_of
from tunefleet_core.tracking.run_trackers import RunTrackers

__all__ = ["RunTrackers", "Tracker", "numbers_of", "project_of"]
