"""What a training spec must satisfy about the life of its run: samples and validations."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tunefleet.job.v1.spec_pb2 import SamplePolicy, TrainSpec
from tunefleet_core.run_health.best import BEST_BY
from tunefleet_core.spec.nearest import did_you_mean

__all__ = ["NO_BEST", "life_violations"]

NO_BEST = "none"
"""The value of `checkpoint.best_by` for the last step."""

_MOST_PROMPTS = 8
_MOST_TOKENS = 1024
_MOST_ROLLBACKS = 10


def life_violations(train: TrainSpec) -> Iterator[tuple[str, str]]:
    """Yield field and fault of everything that is wrong."""
    if train.HasField("samples"):
        yield from _samples(train.samples)
    if train.HasField("validate_every_steps"):
        if train.validate_every_steps <= 0:
            yield "train.validate_every_steps", f"must be greater than 0, got {train.validate_every_steps}"
        if not train.data.validation:
            yield "train.validate_every_steps", "needs validation rows; name a file in train.data.validation"
    method = train.method.WhichOneof("method") or "sft"
    if train.data.general and method != "sft":
        yield "train.data.general", f"is scored with sft only, not with {method}; leave it out"
    yield from _checkpoints(train)
    yield from _early_stop(train)
    if not 0 <= train.divergence.max_rollbacks <= _MOST_ROLLBACKS:
        yield (
            "train.divergence.max_rollbacks",
            f"must be at least 0 and at most {_MOST_ROLLBACKS}, got {train.divergence.max_rollbacks}",
        )


def _checkpoints(train: TrainSpec) -> Iterator[tuple[str, str]]:
    policy = train.checkpoint
    if policy.HasField("every_minutes") and not 0 < policy.every_minutes < math.inf:
        yield "train.checkpoint.every_minutes", f"must be greater than 0, got {policy.every_minutes:g}"
    if not policy.best_by:
        return
    if policy.best_by not in (*BEST_BY, NO_BEST):
        words = ", ".join((*BEST_BY, NO_BEST))
        near = did_you_mean(policy.best_by, (*BEST_BY, NO_BEST))
        yield "train.checkpoint.best_by", f"must be one of {words}, got '{policy.best_by}'{near}"
    elif policy.best_by != NO_BEST and not train.data.validation:
        yield "train.checkpoint.best_by", "needs validation rows; name a file in train.data.validation"


def _early_stop(train: TrainSpec) -> Iterator[tuple[str, str]]:
    stop = train.early_stop
    if stop.patience < 0:
        yield "train.early_stop.patience", f"must be at least 0, got {stop.patience}"
    if not 0 <= stop.min_delta < math.inf:
        yield "train.early_stop.min_delta", f"must be at least 0, got {stop.min_delta:g}"
    if stop.patience > 0 and not train.data.validation:
        yield "train.early_stop", "needs validation rows; name a file in train.data.validation"
    elif stop.patience > 0 and train.checkpoint.best_by == NO_BEST:
        yield (
            "train.early_stop.patience",
            f"needs something to be the best by, and checkpoint.best_by is {NO_BEST}; leave one of them out",
        )


def _samples(samples: SamplePolicy) -> Iterator[tuple[str, str]]:
    if not samples.prompts:
        yield "train.samples.prompts", "is missing; write what a user would say, such as ['Who are you?']"
    if len(samples.prompts) > _MOST_PROMPTS:
        yield "train.samples.prompts", f"has {len(samples.prompts)} prompts; give {_MOST_PROMPTS} at most"
    for index, prompt in enumerate(samples.prompts):
        if not prompt.strip():
            yield f"train.samples.prompts[{index}]", "is empty; write what a user would say"
    if samples.HasField("every_steps") and samples.every_steps <= 0:
        yield "train.samples.every_steps", f"must be greater than 0, got {samples.every_steps}"
    if samples.HasField("max_new_tokens") and not 0 < samples.max_new_tokens <= _MOST_TOKENS:
        yield (
            "train.samples.max_new_tokens",
            f"must be greater than 0 and at most {_MOST_TOKENS}, got {samples.max_new_tokens}",
        )
