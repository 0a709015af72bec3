"""An evaluation."""

from __future__ import annotations

from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.resolve.defaults.filling import Defaults
from tunefleet_core.spec import METRICS

__all__ = ["fill_evaluate"]


def fill_evaluate(defaults: Defaults, spec: JobSpec) -> None:
    """Fill an evaluation."""
    if spec.evaluate.examples:
        defaults.fill("evaluate.example_count", 3, "three examples before every prompt")
    defaults.fill("evaluate.metrics", list(METRICS), "every metric")
    defaults.fill("evaluate.max_new_tokens", 128, "room for a short answer")
    defaults.fill("evaluate.batch_size", 32, "rows that are answered at the same time")
