"""Preference methods at submit: what is filled in, what is refused, what is told."""

from __future__ import annotations

import pytest
from resolve_lab import FAMILY, audit_of, base_facts, chosen, mask, reasons, train_spec

from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.resolve import Resolution, draft_train, finish_train
from tunefleet_core.spec.rules import find_violations

METHODS = ("dpo", "ipo", "kto", "orpo", "simpo")
BETAS = {"simpo": 2.0}


def spec_of(method: str, *, adapter: bool = True) -> JobSpec:
    spec = train_spec(adapter=adapter)
    getattr(spec.train.method, method).SetInParent()
    return spec


def resolve_by(spec: JobSpec, *, methods: tuple[str, ...] = METHODS, **found: object) -> Resolution:
    draft = draft_train(spec, base_facts(), FAMILY)
    return finish_train(draft, audit_of(draft, mask(**found)), chosen(methods=methods))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("adapter", "rate"), [(True, 5e-6), (False, 5e-7)])
def test_what_is_left_out_is_filled_in_with_its_reason(method: str, adapter: bool, rate: float) -> None:
    resolution = resolve_by(spec_of(method, adapter=adapter))
    train = resolution.spec.spec.train
    assert train.method.WhichOneof("method") == method
    assert getattr(train.method, method).beta == pytest.approx(BETAS.get(method, 0.1))
    rate = rate * 10 if method == "orpo" else rate
    assert (train.optim.learning_rate, train.optim.epochs) == (pytest.approx(rate), 1.0)
    values = reasons(resolution)
    assert f"train.method.{method}.beta" in values
    assert "train.method.sft.packing" not in values
    assert not [notice for notice in resolution.notices if notice.field == "train.optim.learning_rate"]
    if adapter:
        assert train.adapter.lora.dropout == 0
        assert "without noise" in values["train.adapter.lora.dropout"][1]


def test_the_margin_of_simpo_follows_its_factor() -> None:
    assert resolve_by(spec_of("simpo")).spec.spec.train.method.simpo.gamma == 1.0
    spec = spec_of("simpo")
    spec.train.method.simpo.beta = 3.0
    resolution = resolve_by(spec)
    assert resolution.spec.spec.train.method.simpo.gamma == 1.5
    assert "half of beta" in reasons(resolution)["train.method.simpo.gamma"][1]
    spec.train.method.simpo.gamma = 0.0
    assert resolve_by(spec).spec.spec.train.method.simpo.gamma == 0.0


def test_what_was_given_is_kept() -> None:
    spec = spec_of("dpo")
    spec.train.method.dpo.beta = 0.5
    spec.train.adapter.lora.dropout = 0.1
    resolution = resolve_by(spec)
    assert resolution.spec.spec.train.method.dpo.beta == 0.5
    assert resolution.spec.spec.train.adapter.lora.dropout == 0.1


def test_the_audit_is_told_the_method() -> None:
    assert draft_train(spec_of("kto"), base_facts(), FAMILY).audit_order.method == "kto"
    assert draft_train(train_spec(), base_facts(), FAMILY).audit_order.method == "sft"


def test_a_rate_for_supervised_training_is_warned_of() -> None:
    spec = spec_of("dpo")
    spec.train.optim.learning_rate = 2e-4
    (notice,) = [notice for notice in resolve_by(spec).notices if notice.field == "train.optim.learning_rate"]
    assert (notice.severity, notice.usual) == ("warning", "5e-6")


def test_a_backend_that_does_not_train_so_is_named() -> None:
    with pytest.raises(TunefleetError, match="does not train by kto; it knows sft, dpo") as caught:
        resolve_by(spec_of("kto"), methods=("dpo",))
    assert caught.value.reason is Reason.CAPABILITY_UNSUPPORTED
    assert caught.value.metadata["field"] == "train.method.kto"


def test_pairs_need_twice_the_activations_and_every_weight_a_second_base() -> None:
    plain = resolve_by(train_spec(adapter=False)).spec.estimate
    labelled, pairs = (resolve_by(spec_of(method, adapter=False)).spec.estimate for method in ("kto", "dpo"))
    assert pairs.activation_bytes == 2 * labelled.activation_bytes == 2 * plain.activation_bytes
    assert pairs.weights_bytes == labelled.weights_bytes == 2 * plain.weights_bytes
    for method in ("orpo", "simpo"):
        alone = resolve_by(spec_of(method, adapter=False)).spec.estimate
        assert alone.activation_bytes == pairs.activation_bytes
        assert alone.weights_bytes == plain.weights_bytes, "no base stands beside the model"
    adapted = resolve_by(spec_of("dpo")).spec.estimate
    assert adapted.weights_bytes == plain.weights_bytes, "the adapter is switched off"


def test_equal_answers_are_told_once() -> None:
    resolution = resolve_by(
        spec_of("dpo"), rows_without_loss=3, rows_with_equal_answers=3, first_line_with_equal_answers=7
    )
    texts = [notice.text for notice in resolution.notices]
    assert [text for text in texts if "the same, first on line 7" in text]
    assert not [text for text in texts if "carry no loss" in text]


@pytest.mark.parametrize(
    ("method", "change", "field"),
    [
        ("dpo", lambda train: setattr(train.method.dpo, "beta", 0), "train.method.dpo.beta"),
        ("dpo", lambda train: setattr(train, "loss_on", "all"), "train.loss_on"),
        ("ipo", lambda train: setattr(train.method.ipo, "beta", -1), "train.method.ipo.beta"),
        ("orpo", lambda train: setattr(train.method.orpo, "beta", 0), "train.method.orpo.beta"),
        ("simpo", lambda train: setattr(train.method.simpo, "gamma", -1), "train.method.simpo.gamma"),
        ("kto", lambda train: setattr(train.optim, "micro_batch_size", 1), "train.optim.micro_batch_size"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_field(method: str, change: object, field: str) -> None:
    spec = spec_of(method)
    change(spec.train)  # type: ignore[operator]
    assert [violation.field for violation in find_violations(spec)] == [field]


def scored(method: str, *, adapter: bool = True, rewards: int = 1) -> JobSpec:
    spec = spec_of(method, adapter=adapter)
    for _ in range(rewards):
        getattr(spec.train.method, method).rewards.add(name="exact_match")
    return spec


@pytest.mark.parametrize(("method", "count", "beta"), [("grpo", 8, 0.04), ("rloo", 4, 0.05)])
@pytest.mark.parametrize(("adapter", "rate"), [(True, 1e-5), (False, 1e-6)])
def test_learning_by_reward_is_filled_in(
    method: str, count: int, beta: float, adapter: bool, rate: float
) -> None:
    resolution = resolve_by(scored(method, adapter=adapter), methods=(method,), trained_tokens=0)
    train = resolution.spec.spec.train
    options = getattr(train.method, method)
    assert (options.num_generations, options.beta) == (count, pytest.approx(beta))
    assert (options.temperature, options.max_completion_length) == (1.0, 256)
    assert train.optim.learning_rate == pytest.approx(rate)
    assert train.optim.micro_batch_size == 1
    assert not [notice for notice in resolution.notices if "loss" in notice.text or "carries" in notice.text]
    estimate = resolution.spec.estimate
    as_rows = train_spec(adapter=adapter)
    as_rows.train.optim.micro_batch_size, as_rows.train.max_length = count, 192 + 256
    if adapter:
        as_rows.train.adapter.lora.dropout = train.adapter.lora.dropout
    assert estimate.activation_bytes == resolve_by(as_rows).spec.estimate.activation_bytes


def test_the_rewards_go_to_the_audit_and_steps_want_enough_prompts() -> None:
    spec = scored("grpo", rewards=2)
    order = draft_train(spec, base_facts(), FAMILY).audit_order
    assert [reward.name for reward in order.rewards] == ["exact_match"] * 2
    with pytest.raises(TunefleetError, match="more than the 10 prompts there are") as caught:
        resolve_by(spec, methods=("grpo",), rows=10)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert [item.field for item in find_violations(scored("grpo", rewards=0))] == [
        "train.method.grpo.rewards"
    ]
    spec.train.method.grpo.num_generations = 1
    assert [item.field for item in find_violations(spec)] == ["train.method.grpo.num_generations"]
