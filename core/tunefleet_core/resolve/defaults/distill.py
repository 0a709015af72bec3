"""Learning what a teacher would say."""

from __future__ import annotations

from tunefleet.job.v1.spec_pb2 import TrainSpec
from tunefleet_core.resolve.defaults.filling import Defaults

__all__ = ["METHOD", "fill", "writes_rows"]

METHOD = "distill"
"""The method that this table is for."""

_SHARE, _BETA = 0.5, 0.5
_LONGEST = 256
_TIMEOUT_SECONDS, _RETRIES = 120.0, 4


def writes_rows(train: TrainSpec) -> bool:
    """Return whether a teacher writes the answers that are trained, so that rows are prompts alone."""
    return train.method.HasField(METHOD) and train.method.distill.teacher.HasField("endpoint")


def fill(defaults: Defaults, train: TrainSpec) -> None:
    """Fill what differs by teacher; learning rate and epochs are those of supervised training."""
    field = f"train.method.{METHOD}"
    if writes_rows(train):
        defaults.fill(f"{field}.temperature", 0.0, "the answers that the teacher finds likeliest")
        place = f"{field}.teacher.endpoint"
        defaults.fill(f"{place}.timeout_seconds", _TIMEOUT_SECONDS, "a busy server takes a while")
        defaults.fill(f"{place}.retries", _RETRIES, "half a minute of an endpoint that is away")
    else:
        defaults.fill(f"{field}.on_policy_share", _SHARE, "half of the passes on mistakes of its own")
        defaults.fill(f"{field}.beta", _BETA, "between covering what the teacher says and seeking its best")
        defaults.fill(f"{field}.temperature", 1.0, "answers as the model would")
    defaults.fill(f"{field}.max_completion_length", _LONGEST, "short answers; give more room to think")
