"""What every job has."""

from __future__ import annotations

from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.resolve.defaults.filling import Defaults

__all__ = ["fill_common"]


def fill_common(defaults: Defaults, spec: JobSpec, *, backend: str) -> None:
    """Fill what every job has."""
    defaults.fill("backend", backend, "the best backend of the fleet that fits")
    defaults.fill("resources.devices", 1, "one device unless more are asked for")
    defaults.fill("max_attempts", 3, "a failure that may pass is tried again")
