"""The life of a run: how often it is looked at, which state is its result, when it stops."""

from __future__ import annotations

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet.job.v1.spec_pb2 import TrainSpec
from tunefleet_core.backend import has_capability
from tunefleet_core.resolve.defaults import online
from tunefleet_core.resolve.defaults.filling import Defaults

__all__ = ["fill_life"]

_LOOKS = 10
"""Validations and samples of a run: enough to see a turning point, few enough not to rule the time."""
_ANSWER_TOKENS = 64
_PATIENCE = 3
_ROLLBACKS = 2
_MINUTES = 10.0


def fill_life(defaults: Defaults, train: TrainSpec, manifest: BackendManifest, *, total_steps: int) -> None:
    """Fill what a run does beside its steps, as far as its backend can.

    Args:
        defaults: Where the decisions go.
        train: The spec, changed in place, filled in but for this.
        manifest: Who runs it.
        total_steps: Optimiser steps of the run; 0 if unknown.
    """
    every, why = max(1, total_steps // _LOOKS), f"at least {_LOOKS} times in {total_steps} steps"
    if train.data.validation and total_steps:
        defaults.fill("train.validate_every_steps", every, why)
    if train.HasField("samples"):
        if total_steps:
            defaults.fill("train.samples.every_steps", every, why)
        defaults.fill("train.samples.max_new_tokens", _ANSWER_TOKENS, "enough to see whether it learns")
    if has_capability(manifest, Capability.CAPABILITY_ROLLBACK):
        why = "goes on from the last good checkpoint with half the rate, so often at most"
        defaults.fill("train.divergence.max_rollbacks", _ROLLBACKS, why)
    if has_capability(manifest, Capability.CAPABILITY_TIMED_CHECKPOINTS):
        defaults.fill(
            "train.checkpoint.every_minutes", _MINUTES, "bounds what a crash of slow steps can cost"
        )
    if train.data.validation and has_capability(manifest, Capability.CAPABILITY_BEST_CHECKPOINT):
        _fill_best(defaults, train)


def _fill_best(defaults: Defaults, train: TrainSpec) -> None:
    if train.method.WhichOneof("method") in online.METHODS:
        defaults.fill("train.checkpoint.best_by", "none", "its loss says little about its answers")
    defaults.fill("train.checkpoint.best_by", "validation_loss", "the best state is the result, not the last")
    if train.checkpoint.best_by != "none":
        why = "stops once validation has not improved for so many times; 0: never"
        defaults.fill("train.early_stop.patience", _PATIENCE, why)
        defaults.fill("train.early_stop.min_delta", 0.0, "any improvement counts")
