"""Learning to score answers from pairs of them."""

from __future__ import annotations

from tunefleet_core.resolve.defaults.filling import Defaults

__all__ = ["METHOD", "fill"]

METHOD = "reward"
"""The method that this table is for."""

_CENTER = 0.01


def fill(defaults: Defaults, *, is_adapter: bool) -> None:
    """Fill the term that keeps scores near 0, learning rate, epochs and dropout."""
    field = f"train.method.{METHOD}.center_rewards_coefficient"
    defaults.fill(field, _CENTER, "the paper's own: pairs tell nothing of the height of scores")
    if is_adapter:
        rate, why = 1e-4, "a new head and an adapter: ten times that of every weight"
        defaults.fill(
            "train.adapter.lora.dropout", 0.0, "both answers of a pair are scored alike, without noise"
        )
    else:
        rate, why = 1e-5, "every weight under a new head; more forgets the base"
    defaults.fill("train.optim.learning_rate", rate, why)
    defaults.fill("train.optim.epochs", 1.0, "one pass: pairs are learned by heart soon")
