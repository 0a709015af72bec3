"""Ways of adapting a model: what each defaults to, needs of a backend, and of the engine that serves it."""

from __future__ import annotations

import pytest
from resolve_lab import TRAINERS, base_facts, chosen, reasons, refusal, resolve, texts, train_spec

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.errors import Reason
from tunefleet_core.resolve import check_backend


def adapted(
    *, rslora: bool = False, dora: bool = False, quantization: str = "", merge: bool = False, engine: str = ""
) -> JobSpec:
    spec = train_spec()
    if rslora:
        spec.train.adapter.lora.rslora = True
    if dora:
        spec.train.adapter.lora.dora = True
    if merge:
        spec.train.merge = True
    spec.train.quantization = quantization
    if engine:
        spec.train.intended_serving.engine = engine
    return spec


def test_under_rslora_alpha_is_the_root_of_the_rank_and_the_reason_says_so() -> None:
    spec = adapted(rslora=True)
    spec.train.adapter.lora.rank = 64
    resolution = resolve(spec)
    assert resolution.spec.spec.train.adapter.lora.alpha == 8.0
    value, why = reasons(resolution)["train.adapter.lora.alpha"]
    assert (value, why) == (
        "8",
        "the square root of the rank: rsLoRA's scale alpha / sqrt(rank) is 1 at every rank",
    )
    assert resolution.notices == ()


@pytest.mark.parametrize(
    ("alpha", "rslora", "text"),
    [
        (32.0, False, "The scale alpha / rank is 2: it multiplies every update."),
        (8.0, True, "The scale alpha / sqrt(rank) is 2: it multiplies every update."),
        (16.0, True, "The scale alpha / sqrt(rank) is 4: it multiplies every update."),
        (32.0, True, "The scale alpha / sqrt(rank) is 8, outside 0.5 to 4: it multiplies every update."),
        (1.0, True, "The scale alpha / sqrt(rank) is 0.25, outside 0.5 to 4: it multiplies every update."),
    ],
)
def test_a_given_alpha_has_its_scale_shown(alpha: float, rslora: bool, text: str) -> None:
    spec = adapted(rslora=rslora)
    spec.train.adapter.lora.alpha = alpha
    resolution = resolve(spec)
    assert texts(resolution) == text
    assert resolution.notices[0].severity == ("warning" if "outside" in text else "info")


@pytest.mark.parametrize(
    ("spec", "missing", "field"),
    [
        (adapted(rslora=True), "RSLORA", "train.adapter.lora.rslora"),
        (adapted(dora=True, merge=True), "DORA", "train.adapter.lora.dora"),
        (adapted(quantization="nf4"), "QLORA_NF4", "train.quantization"),
        (adapted(merge=True), "MERGE", "train.merge"),
        (train_spec(adapter=False), "FULL_FINE_TUNING", "train.adapter"),
    ],
)
def test_what_a_backend_cannot_do_is_refused_at_its_field(spec: JobSpec, missing: str, field: str) -> None:
    lacking = [item for item in TRAINERS if Capability.Name(item) != f"CAPABILITY_{missing}"]
    check_backend(spec, chosen().manifest)
    error = refusal(
        Reason.CAPABILITY_UNSUPPORTED, lambda: check_backend(spec, chosen(capabilities=lacking).manifest)
    )
    assert error.metadata["capability"] == missing
    assert [violation.field for violation in error.violations] == [field]
    assert error.message.startswith(f"{field}: ")


@pytest.mark.parametrize("engine", ["embedded", "vllm", "sglang"])
def test_dora_without_merge_is_refused_for_an_engine_that_does_not_take_it(engine: str) -> None:
    error = refusal(
        Reason.CAPABILITY_UNSUPPORTED,
        lambda: check_backend(adapted(dora=True, engine=engine), chosen().manifest),
    )
    assert error.violations[0].field == "train.adapter.lora.dora"
    assert "merge: true" in error.hint
    assert engine in error.message
    check_backend(adapted(dora=True, engine=engine, merge=True), chosen().manifest)


@pytest.mark.parametrize("engine", ["", "mlx"])
def test_dora_is_trained_unmerged_for_the_engine_that_takes_it(engine: str) -> None:
    check_backend(adapted(dora=True, engine=engine), chosen().manifest)


@pytest.mark.parametrize("engine", ["", "embedded", "mlx", "sglang", "vllm"])
def test_rslora_is_taken_for_every_engine(engine: str) -> None:
    """SGLang too, which knows one scale alone: its driver writes that into what it loads."""
    check_backend(adapted(rslora=True, engine=engine), chosen().manifest)


def test_an_engine_nobody_knows_is_taken_at_its_word_and_told() -> None:
    assert "Nothing is known of how 'abacus' serves an adapter with dora." in texts(
        resolve(adapted(dora=True, engine="abacus"))
    )


def test_the_estimate_counts_the_magnitudes_of_dora() -> None:
    plain = resolve(train_spec()).spec.estimate.trainable_parameters
    spec = adapted(dora=True, merge=True)
    assert resolve(spec).spec.estimate.trainable_parameters == plain + 8 + 32


def test_full_fine_tuning_steps_small_and_holds_weights_gradients_and_both_moments() -> None:
    facts = base_facts(parameter_count=1_000_000)
    resolution = resolve(train_spec(adapter=False), facts=facts)
    assert reasons(resolution)["train.optim.learning_rate"][0] == "1e-05"
    estimate = resolution.spec.estimate
    assert estimate.weights_bytes + estimate.optimizer_bytes == 16 * 1_000_000
    assert not resolution.spec.spec.train.HasField("merge")
