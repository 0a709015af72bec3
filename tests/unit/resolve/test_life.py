"""The life of a run at submit: how often it is looked at, what is refused."""

from __future__ import annotations

import pytest
from resolve_lab import FAMILY, audit_of, base_facts, chosen, mask, reasons, refusal, train_spec

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.errors import Reason
from tunefleet_core.resolve import Resolution, draft_train, finish_train
from tunefleet_core.spec import find_violations

COMMON = (
    Capability.CAPABILITY_TRAIN,
    Capability.CAPABILITY_SFT,
    Capability.CAPABILITY_LORA,
    Capability.CAPABILITY_FULL_FINE_TUNING,
)


def resolve_with(spec: JobSpec, *capabilities: Capability.ValueType) -> Resolution:
    draft = draft_train(spec, base_facts(), FAMILY)
    files = (mask(), mask()) if spec.train.data.validation else (mask(),)
    return finish_train(draft, audit_of(draft, *files), chosen(capabilities=[*COMMON, *capabilities]))


def with_samples(*prompts: str) -> JobSpec:
    spec = train_spec()
    spec.train.samples.prompts.extend(prompts)
    return spec


def test_a_run_validates_at_least_ten_times() -> None:
    spec = train_spec()
    spec.train.optim.max_steps = 95
    resolution = resolve_with(spec)
    assert resolution.spec.spec.train.validate_every_steps == 9
    assert "at least 10 times" in reasons(resolution)["train.validate_every_steps"][1]


def test_without_validation_rows_there_is_nothing_to_decide() -> None:
    resolution = resolve_with(train_spec(validation=False))
    assert "train.validate_every_steps" not in reasons(resolution)


def test_prompts_are_answered_ten_times_a_run() -> None:
    spec = with_samples("Who are you?")
    spec.train.optim.max_steps = 200
    samples = resolve_with(spec, Capability.CAPABILITY_SAMPLES).spec.spec.train.samples
    assert (samples.every_steps, samples.max_new_tokens) == (20, 64)


def test_samples_need_a_backend_that_answers() -> None:
    error = refusal(Reason.CAPABILITY_UNSUPPORTED, lambda: resolve_with(with_samples("Who are you?")))
    assert "train.samples" in error.message


@pytest.mark.parametrize(
    ("change", "field", "why"),
    [
        (lambda train: train.samples.SetInParent(), "train.samples.prompts", "is missing"),
        (lambda train: train.samples.prompts.append(" "), "train.samples.prompts[0]", "is empty"),
        (lambda train: train.samples.prompts.extend("abcdefghi"), "train.samples.prompts", "8 at most"),
        (
            lambda train: (train.samples.prompts.append("a"), setattr(train.samples, "every_steps", 0)),
            "train.samples.every_steps",
            "greater than 0",
        ),
        (
            lambda train: (train.samples.prompts.append("a"), setattr(train.samples, "max_new_tokens", 5000)),
            "train.samples.max_new_tokens",
            "at most 1024",
        ),
        (lambda train: setattr(train, "validate_every_steps", 0), "train.validate_every_steps", "than 0"),
    ],
)
def test_what_makes_no_sense_is_named_by_its_field(change, field: str, why: str) -> None:
    spec = train_spec()
    change(spec.train)
    found = find_violations(spec)
    assert [violation.field for violation in found] == [field]
    assert why in found[0].description


def test_validating_more_often_needs_validation_rows() -> None:
    spec = train_spec(validation=False)
    spec.train.validate_every_steps = 5
    assert [violation.field for violation in find_violations(spec)] == ["train.validate_every_steps"]
