"""The recipe lint: each rule speaks on its case and is silent on a job left to its defaults."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest
from resolve_lab import CONFIG, base_facts, chosen, mask, resolve, train_spec

from tunefleet.job.v1.event_pb2 import Notice
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.resolve import digest_of
from tunefleet_core.resolve.lint import RULES, lint
from tunefleet_core.resolve.recipe import Recipe

MOE = {**CONFIG, "num_experts": 8, "router_aux_loss_coef": 0.0}


def recipe(**changes: object) -> Recipe:
    """Return the default job, resolved, with some of its values changed by dotted path."""
    known = {name: changes.pop(name) for name in list(changes) if name in Recipe.__dataclass_fields__}
    spec = JobSpec()
    spec.CopyFrom(resolve(train_spec()).spec.spec)
    for path, value in changes.items():
        message = spec.train
        *parents, name = path.split("__")
        for parent in parents:
            message = getattr(message, parent)
        setattr(message, name, value)
    return dataclasses.replace(Recipe.of(spec, facts=base_facts(), mask=mask()), **known)


def full(**changes: object) -> Recipe:
    found = recipe(**changes)
    found.train.ClearField("adapter")
    return found


def by(method: str, **values: float) -> Recipe:
    return recipe(optim__learning_rate=1e-5, **{f"method__{method}__{name}": v for name, v in values.items()})


def told(found: Recipe) -> list[Notice]:
    return list(lint(found))


# Rule: its case, the value that is named, and how the sentence begins.
CASES: list[tuple[str, Callable[[], Recipe], str, str]] = [
    ("few-rows", lambda: recipe(rows=99), "99", "There are only 99 training rows"),
    ("no-validation", lambda: recipe(data__validation=""), "", "There are no validation rows"),
    ("scale", lambda: recipe(adapter__lora__alpha=80.0), "80", "The scale alpha / rank is 5, outside 0.5"),
    ("scale", lambda: recipe(adapter__lora__alpha=4.0), "4", "The scale alpha / rank is 0.25, outside"),
    (
        "high-rank",
        lambda: recipe(adapter__lora__rank=128, adapter__lora__alpha=128.0),
        "128",
        "Rank 128 without rsLoRA learns little more than rank 64",
    ),
    ("learning-rate", lambda: full(optim__learning_rate=2e-4), "0.0002", "The learning rate 0.0002 is high"),
    (
        "learning-rate",
        lambda: recipe(optim__learning_rate=2e-4, method="dpo"),
        "0.0002",
        "The learning rate 0.0002 is high for preference tuning",
    ),
    ("learning-rate", lambda: recipe(optim__learning_rate=1e-7), "1e-07", "The learning rate 1e-07 is low"),
    ("epochs", lambda: recipe(optim__epochs=4.0, rows=4_999), "4", "4 passes over 4,999 rows: past 3"),
    ("epochs", lambda: recipe(optim__max_steps=100), "100", "5 passes over 320 rows"),
    ("half-precision", lambda: recipe(dtype="float16"), "float16", "float16 overflows where bfloat16"),
    (
        "clipping",
        lambda: recipe(optim__max_grad_norm=1e6),
        "1e+06",
        "Gradients are clipped at a norm of 1e+06",
    ),
    ("clipping", lambda: recipe(optim__max_grad_norm=0.0), "0", "Gradients are clipped at a norm of 0"),
    ("long-rows", lambda: recipe(max_length=2048), "2048", "max_length 2,048 is far above the 95th percent"),
    ("bare-base", lambda: recipe(is_bare=True), "org/tiny", "The rows are chats and the base was never"),
    ("auxiliary-loss", lambda: recipe(config=MOE), "0", "The base has 8 routed experts and router_aux_l"),
    ("batch-size", lambda: recipe(optim__batch_size=1), "1", "train.optim.batch_size 1 is low"),
    ("warmup-ratio", lambda: recipe(optim__warmup_ratio=0.4), "0.4", "train.optim.warmup_ratio 0.4 is high"),
    ("weight-decay", lambda: recipe(optim__weight_decay=0.5), "0.5", "train.optim.weight_decay 0.5 is high"),
    ("dropout", lambda: recipe(adapter__lora__dropout=0.5), "0.5", "train.adapter.lora.dropout 0.5 is high"),
    ("neftune-alpha", lambda: recipe(neftune_alpha=40.0), "40", "train.neftune_alpha 40 is high"),
    ("min-lr-ratio", lambda: recipe(optim__min_lr_ratio=0.8), "0.8", "train.optim.min_lr_ratio 0.8 is high"),
    ("decay-ratio", lambda: recipe(optim__decay_ratio=0.9), "0.9", "train.optim.decay_ratio 0.9 is high"),
    ("beta1", lambda: recipe(optim__beta1=0.5), "0.5", "train.optim.beta1 0.5 is low"),
    ("beta2", lambda: recipe(optim__beta2=0.5), "0.5", "train.optim.beta2 0.5 is low"),
    ("epsilon", lambda: recipe(optim__epsilon=1e-3), "0.001", "train.optim.epsilon 0.001 is high"),
    (
        "lora-plus-ratio",
        lambda: recipe(adapter__lora__lora_plus_ratio=64.0),
        "64",
        "train.adapter.lora.lora_plus_ratio ",
    ),
    (
        "grpo-num-generations",
        lambda: by("grpo", num_generations=2),
        "2",
        "train.method.grpo.num_generations ",
    ),
    (
        "grpo-temperature",
        lambda: by("grpo", temperature=3.0),
        "3",
        "train.method.grpo.temperature ",
    ),
    (
        "rloo-num-generations",
        lambda: by("rloo", num_generations=128),
        "128",
        "train.method.rloo.num_generations ",
    ),
    (
        "rloo-temperature",
        lambda: by("rloo", temperature=0.1),
        "0.1",
        "train.method.rloo.temperature ",
    ),
    (
        "reward-center-rewards-coefficient",
        lambda: by("reward", center_rewards_coefficient=1.0),
        "1",
        "train.method.reward.center_rewards_coefficient ",
    ),
]


@pytest.mark.parametrize(("name", "make", "value", "text"), CASES)
def test_a_rule_speaks_on_its_case(name: str, make: Callable[[], Recipe], value: str, text: str) -> None:
    (notice,) = told(make())
    (rule,) = (rule for rule in RULES if rule.name == name)
    assert notice.text.startswith(text)
    assert notice.severity == "warning"
    assert notice.value == value
    assert notice.source
    assert notice.source in rule.source
    assert notice.field.startswith("train.")
    assert notice.hint
    assert notice.usual


def test_every_rule_has_a_case_and_a_source() -> None:
    assert {rule.name for rule in RULES} == {name for name, *_ in CASES}
    assert all(rule.source and rule.usual for rule in RULES)


def test_the_default_job_is_silent() -> None:
    assert told(recipe()) == []
    assert told(full(optim__learning_rate=1e-5)) == []


# Rule: the values nearest to its case that it says nothing of.
BESIDE: list[tuple[str, Callable[[], Recipe]]] = [
    ("few-rows", lambda: recipe(rows=100)),
    ("few-rows", lambda: recipe(rows=0)),  # not known before the rows are read
    ("no-validation", lambda: recipe(data__validation="held-back.jsonl")),
    ("scale", lambda: recipe(adapter__lora__rank=64, adapter__lora__alpha=64.0)),
    ("scale", lambda: full(optim__learning_rate=1e-5, adapter__lora__alpha=80.0)),
    ("high-rank", lambda: recipe(adapter__lora__rank=64, adapter__lora__alpha=64.0)),
    (
        "high-rank",
        lambda: recipe(adapter__lora__rank=128, adapter__lora__alpha=128**0.5, adapter__lora__rslora=True),
    ),
    ("learning-rate", lambda: recipe(optim__learning_rate=2e-4)),
    ("learning-rate", lambda: full(optim__learning_rate=5e-5)),
    ("learning-rate", lambda: recipe(optim__learning_rate=5e-6, method="dpo")),
    ("epochs", lambda: recipe(optim__epochs=3.0, rows=4_999)),
    ("epochs", lambda: recipe(optim__epochs=4.0, rows=5_000)),
    ("epochs", lambda: recipe(rows=0, optim__epochs=9.0)),
    ("epochs", lambda: recipe(optim__max_steps=60)),
    ("half-precision", lambda: recipe(dtype="bfloat16")),
    ("half-precision", lambda: recipe(dtype="float32")),
    ("clipping", lambda: recipe(optim__max_grad_norm=10.0)),
    ("clipping", lambda: recipe(optim__max_grad_norm=0.3)),
    ("long-rows", lambda: recipe(max_length=384)),
    ("long-rows", lambda: recipe(max_length=4096, over_long="error", longest=4_090)),
    ("bare-base", lambda: recipe(is_bare=True, loss_on="all")),
    ("bare-base", lambda: recipe(is_bare=True, has_turns=False)),
    ("bare-base", lambda: recipe(is_bare=True, method="dpo", optim__learning_rate=5e-6)),
    ("auxiliary-loss", lambda: recipe(config={**MOE, "router_aux_loss_coef": 0.001})),
    ("auxiliary-loss", lambda: recipe(config={**CONFIG, "router_aux_loss_coef": 0.0})),
    ("auxiliary-loss", lambda: recipe(config={**CONFIG, "num_experts": 8})),
    ("batch-size", lambda: recipe(optim__batch_size=4)),
    ("batch-size", lambda: recipe(optim__batch_size=256)),
    ("warmup-ratio", lambda: recipe(optim__warmup_ratio=0.2)),
    ("weight-decay", lambda: recipe(optim__weight_decay=0.1)),
    ("dropout", lambda: recipe(adapter__lora__dropout=0.2)),
    ("neftune-alpha", lambda: recipe(neftune_alpha=15.0)),
    ("min-lr-ratio", lambda: recipe(optim__min_lr_ratio=0.1)),
    ("decay-ratio", lambda: recipe(optim__decay_ratio=0.2)),
    ("beta1", lambda: recipe(optim__beta1=0.95)),
    ("beta2", lambda: recipe(optim__beta2=0.95)),
    ("epsilon", lambda: recipe(optim__epsilon=1e-6)),
    ("lora-plus-ratio", lambda: recipe(adapter__lora__lora_plus_ratio=16.0)),
    ("grpo-num-generations", lambda: by("grpo", num_generations=8)),
    ("grpo-temperature", lambda: by("grpo", temperature=1.0)),
    ("rloo-num-generations", lambda: by("rloo", num_generations=2)),
    ("rloo-temperature", lambda: by("rloo", temperature=1.0)),
    ("reward-center-rewards-coefficient", lambda: by("reward", center_rewards_coefficient=0.01)),
]


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in BESIDE])
def test_a_rule_is_silent_beside_its_case(make: Callable[[], Recipe]) -> None:
    assert told(make()) == []


def test_every_rule_is_seen_to_be_silent_too() -> None:
    assert {name for name, _ in BESIDE} == {rule.name for rule in RULES}


def test_a_scale_that_is_not_one_is_shown_without_alarm() -> None:
    (notice,) = told(recipe(adapter__lora__alpha=32.0))
    assert (notice.severity, notice.field) == ("info", "train.adapter.lora.alpha")
    assert notice.text == "The scale alpha / rank is 2: it multiplies every update."


@pytest.mark.parametrize(("rows", "held"), [(320, 50), (150, 30), (10_000, 500), (100_000, 2_000)])
def test_how_many_rows_to_hold_back_is_said(rows: int, held: int) -> None:
    (notice,) = told(recipe(data__validation="", rows=rows))
    assert notice.hint.startswith(f"Hold back about {held:,} rows, and as many again for a test")


def test_the_experts_of_a_base_with_vision_are_found_one_level_down() -> None:
    facts = base_facts(config_json=json.dumps({"text_config": MOE}))
    assert "8 routed experts" in "".join(item.text for item in resolve(train_spec(), facts=facts).notices)


def test_a_base_without_template_is_warned_of_and_what_is_used_instead_is_said() -> None:
    used, warned = resolve(train_spec(), facts=base_facts(chat_template="")).notices
    assert used.text.startswith("The base has no chat template; that of the family")
    assert warned.text.startswith("The rows are chats and the base was never taught to chat")


def test_notices_stay_with_the_job_and_are_no_part_of_its_digest() -> None:
    spec = train_spec()
    spec.train.optim.learning_rate = 2e-3
    resolution = resolve(spec, backend=chosen())
    assert list(resolution.spec.notices) == list(resolution.notices) != []
    silent = type(resolution.spec)()
    silent.CopyFrom(resolution.spec)
    silent.ClearField("notices")
    assert digest_of(silent) == resolution.digest == digest_of(resolution.spec)
