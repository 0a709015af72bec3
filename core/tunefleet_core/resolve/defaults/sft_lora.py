"""Supervised fine-tuning of an adapter."""

from __future__ import annotations

from tunefleet_core.resolve.defaults.filling import Defaults

__all__ = ["fill", "fill_epochs"]

_LARGE_PARAMETERS = 30_000_000_000


def fill(defaults: Defaults, *, parameters: int, has_validation: bool) -> None:
    """Fill learning rate and epochs."""
    if parameters >= _LARGE_PARAMETERS:
        rate, why = 1e-4, "adapters on bases of 30B parameters and more"
    else:
        rate, why = 2e-4, "adapters on bases below 30B parameters"
    defaults.fill("train.optim.learning_rate", rate, why)
    fill_epochs(defaults, has_validation=has_validation)


def fill_epochs(defaults: Defaults, *, has_validation: bool) -> None:
    """Fill the passes over the rows: fewer where nobody would see over-fitting."""
    epochs, why = (
        (3.0, "up to three passes")
        if has_validation
        else (2.0, "without validation rows nobody sees over-fitting")
    )
    defaults.fill("train.optim.epochs", epochs, why)
