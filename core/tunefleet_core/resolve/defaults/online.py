"""Learning from scored answers of the model's own."""

from __future__ import annotations

from tunefleet_core.resolve.defaults.filling import Defaults

__all__ = ["METHODS", "fill"]

METHODS = ("grpo", "rloo")
"""The methods that this table is for."""

_GENERATIONS = {"grpo": 8, "rloo": 4}
_BETAS = {"grpo": 0.04, "rloo": 0.05}
_LONGEST = 256


def fill(defaults: Defaults, *, method: str, is_adapter: bool) -> None:
    """Fill group size, strength, temperature, length of answers, learning rate, epochs, dropout, batches."""
    field = f"train.method.{method}"
    count = _GENERATIONS[method]
    defaults.fill(f"{field}.num_generations", count, "enough answers to tell better from worse")
    defaults.fill(f"{field}.beta", _BETAS[method], "held near the base, so that rewards are not gamed")
    defaults.fill(f"{field}.temperature", 1.0, "answers as the model would, so that they differ")
    defaults.fill(f"{field}.max_completion_length", _LONGEST, "short answers; give more room to think")
    if is_adapter:
        rate, why = 1e-5, "scored answers with an adapter: ten times that of full fine-tuning"
        defaults.fill("train.adapter.lora.dropout", 0.0, "answers are given and learned by the same model")
    else:
        rate, why = 1e-6, "scored answers with every weight; more often collapses"
    defaults.fill("train.optim.learning_rate", rate, why)
    defaults.fill("train.optim.epochs", 1.0, "one pass: every prompt is answered many times")
    defaults.fill("train.optim.micro_batch_size", 1, "a prompt with all of its answers at a time")
