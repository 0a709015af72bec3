"""Training on preferences: pairs of answers, or answers with a label."""

from __future__ import annotations

from tunefleet.job.v1.spec_pb2 import TrainSpec
from tunefleet_core.resolve.defaults.filling import Defaults

__all__ = ["METHODS", "fill"]

METHODS = ("dpo", "ipo", "kto", "orpo", "simpo")
"""The methods that this table is for."""

_BETA = 0.1
_SIMPO_BETA = 2.0
_TEN_TIMES = 10


def fill(defaults: Defaults, train: TrainSpec, *, method: str) -> None:
    """Fill strength, learning rate, epochs and dropout."""
    _fill_strength(defaults, train, method=method)
    if train.HasField("adapter"):
        rate, why = 5e-6, "preferences with an adapter; more often diverges"
        # What is compared is to differ by the weights alone: noise in one of them is noise in the reward.
        compared = "with its base" if method in ("dpo", "ipo", "kto") else "on both answers"
        defaults.fill("train.adapter.lora.dropout", 0.0, f"the model is compared {compared}, without noise")
    else:
        rate, why = 5e-7, "preferences with every weight; more often diverges"
    if method == "orpo":
        rate, why = rate * _TEN_TIMES, "the answers are learned too: ten times that of other preferences"
    defaults.fill("train.optim.learning_rate", rate, why)
    defaults.fill("train.optim.epochs", 1.0, "one pass: preferences are learned by heart soon")


def _fill_strength(defaults: Defaults, train: TrainSpec, *, method: str) -> None:
    field = f"train.method.{method}"
    if method == "simpo":
        defaults.fill(f"{field}.beta", _SIMPO_BETA, "the paper's own, of 2 to 2.5")
        half = train.method.simpo.beta / 2
        defaults.fill(f"{field}.gamma", half, "half of beta, as the paper found best")
    elif method == "orpo":
        defaults.fill(f"{field}.beta", _BETA, "the paper's own; more lowers rejected answers further")
    else:
        defaults.fill(f"{field}.beta", _BETA, "the papers' own; smaller moves further from the base")
