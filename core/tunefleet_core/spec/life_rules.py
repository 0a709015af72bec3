"""What a training spec must satisfy about the life of its run: samples and validations."""

from __future__ import annotations

from collections.abc import Iterator

from tunefleet.job.v1.spec_pb2 import SamplePolicy, TrainSpec

__all__ = ["life_violations"]

_MOST_PROMPTS = 8
_MOST_TOKENS = 1024


def life_violations(train: TrainSpec) -> Iterator[tuple[str, str]]:
    """Yield field and fault of everything that is wrong."""
    if train.HasField("samples"):
        yield from _samples(train.samples)
    if train.HasField("validate_every_steps"):
        if train.validate_every_steps <= 0:
            yield "train.validate_every_steps", f"must be greater than 0, got {train.validate_every_steps}"
        if not train.data.validation:
            yield "train.validate_every_steps", "needs validation rows; name a file in train.data.validation"


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
