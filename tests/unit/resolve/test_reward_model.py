"""Reward modelling at submit, and reward models that answers are scored by."""

from __future__ import annotations

import pytest
from resolve_lab import FAMILY, audit_of, base_facts, chosen, mask, reasons, train_spec

from tunefleet.job.v1.resolved_pb2 import CompanionModel
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.errors import TunefleetError
from tunefleet_core.resolve import Resolution, companions_of, draft_train, finish_train
from tunefleet_core.spec.rules import find_violations

FIELD = "train.method.grpo.rewards[1].options.model"


def scored_spec() -> JobSpec:
    spec = train_spec(validation=False)
    spec.train.method.grpo.rewards.add(name="regex").options["pattern"] = "a"
    spec.train.method.grpo.rewards.add(name="reward_model").options["model"] = "models/judge"
    return spec


def resolve(spec: JobSpec, *companions: CompanionModel) -> Resolution:
    draft = draft_train(spec, base_facts(), FAMILY, companions=companions)
    return finish_train(draft, audit_of(draft, mask()), chosen(methods=("grpo", "reward")))


@pytest.mark.parametrize(("adapter", "rate"), [(True, 1e-4), (False, 1e-5)])
def test_what_is_left_out_is_filled_in_with_its_reason(adapter: bool, rate: float) -> None:
    spec = train_spec(adapter=adapter)
    spec.train.method.reward.SetInParent()
    resolution = resolve(spec)
    train = resolution.spec.spec.train
    assert train.method.reward.center_rewards_coefficient == pytest.approx(0.01)
    assert (train.optim.learning_rate, train.optim.epochs) == (pytest.approx(rate), 1.0)
    assert "train.method.reward.center_rewards_coefficient" in reasons(resolution)
    assert not [notice for notice in resolution.notices if notice.field == "train.optim.learning_rate"]
    plain = resolve(train_spec(adapter=adapter)).spec.estimate
    # Two answers a row; in the place of a head over the vocabulary one number for each.
    assert plain.activation_bytes < resolution.spec.estimate.activation_bytes <= 2 * plain.activation_bytes
    assert resolution.spec.estimate.weights_bytes == plain.weights_bytes


def test_a_rate_for_preferences_is_warned_of() -> None:
    spec = train_spec()
    spec.train.method.reward.SetInParent()
    spec.train.optim.learning_rate = 5e-7
    (notice,) = [item for item in resolve(spec).notices if item.field == "train.optim.learning_rate"]
    assert (notice.severity, notice.usual) == ("warning", "1e-4")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda train: setattr(train, "merge", True), "train.merge"),
        (lambda train: train.samples.prompts.append("red"), "train.samples"),
        (lambda train: setattr(train.intended_serving, "engine", "vllm"), "train.intended_serving.engine"),
        (
            lambda train: setattr(train.method.reward, "center_rewards_coefficient", -1),
            "train.method.reward.center_rewards_coefficient",
        ),
    ],
)
def test_what_has_no_sense_for_a_model_that_writes_nothing_is_refused(change: object, field: str) -> None:
    spec = train_spec()
    spec.train.method.reward.SetInParent()
    assert find_violations(spec) == []
    change(spec.train)  # type: ignore[operator]
    assert [item.field for item in find_violations(spec)] == [field]


def test_a_reward_model_is_named_by_models() -> None:
    spec = scored_spec()
    assert find_violations(spec) == []
    (wanted,) = companions_of(spec.train)
    assert (wanted.field, wanted.model, wanted.scores) == (FIELD, "models/judge", True)
    assert companions_of(train_spec().train) == []
    spec.train.method.grpo.rewards[1].options["model"] = "judge"
    assert [item.field for item in find_violations(spec)] == [FIELD]
    spec.train.method.grpo.rewards[1].options.Clear()
    assert [item.field for item in find_violations(spec)] == [FIELD]


def test_it_is_resolved_planned_for_and_proven_by_the_audit() -> None:
    spec = scored_spec()
    draft = draft_train(spec, base_facts(), FAMILY)
    companion = CompanionModel(field=FIELD, base=base_facts(), template_sha256=draft.template.sha256)
    resolution = resolve(spec, companion)
    assert list(resolution.spec.companions) == [companion]
    assert draft_train(spec, base_facts(), FAMILY, companions=[companion]).audit_order.companions == [
        companion
    ]
    alone = resolve(spec).spec.estimate
    assert resolution.spec.estimate.weights_bytes == alone.weights_bytes + 4 * companion.base.parameter_count


def test_another_template_would_score_other_tokens() -> None:
    with pytest.raises(TunefleetError, match="was trained with another chat template") as caught:
        resolve(scored_spec(), CompanionModel(field=FIELD, base=base_facts(), template_sha256="0" * 64))
    assert caught.value.metadata["field"] == FIELD
