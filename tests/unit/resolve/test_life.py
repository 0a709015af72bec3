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


def test_with_validation_the_best_state_is_the_result_and_the_run_stops_in_time() -> None:
    resolution = resolve_with(train_spec(), Capability.CAPABILITY_BEST_CHECKPOINT)
    train = resolution.spec.spec.train
    assert train.checkpoint.best_by == "validation_loss"
    assert (train.early_stop.patience, train.early_stop.min_delta) == (3, 0.0)
    assert train.optim.epochs == 3
    assert {"train.checkpoint.best_by", "train.early_stop.patience"} <= set(reasons(resolution))


def test_without_validation_it_is_two_passes_to_the_last_step_and_a_warning() -> None:
    resolution = resolve_with(train_spec(validation=False), Capability.CAPABILITY_BEST_CHECKPOINT)
    train = resolution.spec.spec.train
    assert train.optim.epochs == 2
    assert not train.checkpoint.best_by
    assert not train.HasField("early_stop")
    assert any("no validation rows" in notice.text for notice in resolution.notices)


def test_a_backend_that_cannot_is_told_nothing_of_it() -> None:
    train = resolve_with(train_spec()).spec.spec.train
    assert not train.checkpoint.best_by
    assert not train.HasField("early_stop")
    assert not train.checkpoint.HasField("every_minutes")


def test_a_backend_that_can_saves_by_time_too() -> None:
    train = resolve_with(train_spec(), Capability.CAPABILITY_TIMED_CHECKPOINTS).spec.spec.train
    assert train.checkpoint.every_minutes == 10


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda train: setattr(train.early_stop, "patience", 2), "train.early_stop"),
        (
            lambda train: setattr(train.checkpoint, "best_by", "validation_loss"),
            "train.checkpoint.best_by",
        ),
        (
            lambda train: setattr(train.checkpoint, "every_minutes", 5.0),
            "train.checkpoint.every_minutes",
        ),
    ],
)
def test_what_is_asked_for_needs_a_backend_that_does_it(change, field: str) -> None:
    spec = train_spec()
    change(spec.train)
    assert not find_violations(spec)
    error = refusal(Reason.CAPABILITY_UNSUPPORTED, lambda: resolve_with(spec))
    assert error.violations[0].field == field


@pytest.mark.parametrize(
    ("change", "field", "why"),
    [
        (lambda train: setattr(train.checkpoint, "best_by", "loss"), "train.checkpoint.best_by", "one of"),
        (lambda train: setattr(train.checkpoint, "every_minutes", 0.0), "every_minutes", "greater than 0"),
        (lambda train: setattr(train.early_stop, "patience", -1), "train.early_stop.patience", "at least 0"),
        (lambda train: setattr(train.early_stop, "min_delta", -1.0), "train.early_stop.min_delta", "least 0"),
        (
            lambda train: (
                setattr(train.checkpoint, "best_by", "none"),
                setattr(train.early_stop, "patience", 2),
            ),
            "train.early_stop.patience",
            "something to be the best by",
        ),
        (
            lambda train: (train.data.ClearField("validation"), setattr(train.early_stop, "patience", 2)),
            "train.early_stop",
            "needs validation rows",
        ),
        (
            lambda train: (
                train.data.ClearField("validation"),
                setattr(train.checkpoint, "best_by", "validation_loss"),
            ),
            "train.checkpoint.best_by",
            "needs validation rows",
        ),
    ],
)
def test_a_policy_that_contradicts_itself_is_named(change, field: str, why: str) -> None:
    spec = train_spec()
    change(spec.train)
    (found,) = find_violations(spec)
    assert found.field.endswith(field)
    assert why in found.description


def test_a_lost_run_is_rolled_back_twice_at_most() -> None:
    train = resolve_with(train_spec(), Capability.CAPABILITY_ROLLBACK).spec.spec.train
    assert train.divergence.max_rollbacks == 2
    assert not resolve_with(train_spec()).spec.spec.train.HasField("divergence")


def test_rollbacks_need_a_backend_that_goes_back() -> None:
    spec = train_spec()
    spec.train.divergence.max_rollbacks = 1
    error = refusal(Reason.CAPABILITY_UNSUPPORTED, lambda: resolve_with(spec))
    assert error.violations[0].field == "train.divergence.max_rollbacks"
    spec.train.divergence.max_rollbacks = 11
    assert [item.field for item in find_violations(spec)] == ["train.divergence.max_rollbacks"]


def test_a_model_that_scores_answers_gives_none() -> None:
    spec = with_samples("Who are you?")
    spec.train.method.reward.SetInParent()
    assert [item.field for item in find_violations(spec)] == ["train.samples"]


def test_general_rows_are_found_and_never_trained_on() -> None:
    spec = train_spec()
    spec.train.data.general = "/data/general.jsonl"
    draft = draft_train(spec, base_facts(), FAMILY)
    backend = chosen(capabilities=[*COMMON, Capability.CAPABILITY_GENERAL_SET])
    resolution = finish_train(draft, audit_of(draft, mask(), mask(), mask(rows=50)), backend)
    assert [(data.role, data.path) for data in resolution.spec.data][-1] == ("general", "/data/general.jsonl")
    assert resolution.spec.mask_audit.rows == resolve_with(train_spec()).spec.mask_audit.rows
    refused = refusal(Reason.CAPABILITY_UNSUPPORTED, lambda: finish_train(
        draft, audit_of(draft, mask(), mask(), mask()), chosen(capabilities=COMMON)
    ))  # fmt: skip
    assert refused.violations[0].field == "train.data.general"


def test_general_rows_are_scored_with_sft_only() -> None:
    spec = train_spec()
    spec.train.data.general = "/data/general.jsonl"
    spec.train.method.dpo.SetInParent()
    assert [item.field for item in find_violations(spec)] == ["train.data.general"]
