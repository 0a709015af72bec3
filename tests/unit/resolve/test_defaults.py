"""Defaults that look at the device, the engine and the family, each with its reason."""

from __future__ import annotations

import dataclasses

import pytest
from resolve_lab import FAMILY, base_facts, chosen, reasons, resolve, train_spec

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.resolve import ChosenBackend

GIB = 2**30


def on(memory_bytes: int, *, device: str = "cuda", **changes: object) -> ChosenBackend:
    return dataclasses.replace(chosen(device, **changes), memory_bytes=memory_bytes)


def served(*, engine: str = "", precision: str = "") -> JobSpec:
    spec = train_spec()
    spec.train.intended_serving.engine = engine
    spec.train.intended_serving.precision = precision
    return spec


def test_a_base_that_fits_is_not_quantised() -> None:
    peak = resolve(train_spec(), backend=chosen("cuda")).spec.estimate.peak_bytes
    resolution = resolve(train_spec(), backend=on(int(peak / 0.85) + 1))
    assert resolution.spec.spec.train.quantization == ""
    assert "train.quantization" not in reasons(resolution)


def test_a_base_that_would_take_more_than_85_percent_is_quantised_and_the_reason_has_the_figures() -> None:
    facts = base_facts(parameter_count=8 * 10**9)
    resolution = resolve(train_spec(), facts=facts, backend=on(16 * GIB))
    value, why = reasons(resolution)["train.quantization"]
    assert value == "nf4"
    assert why == "unquantised, the planned peak of 14.9 GiB is more than 85 % of the device's 16 GiB"
    assert resolution.spec.spec.train.quantization == "nf4"


@pytest.mark.parametrize(
    ("spec", "backend"),
    [
        (train_spec(adapter=False), on(1)),
        (train_spec(), on(0)),
        (
            train_spec(),
            on(
                1,
                capabilities=[
                    Capability.CAPABILITY_TRAIN,
                    Capability.CAPABILITY_SFT,
                    Capability.CAPABILITY_LORA,
                    Capability.CAPABILITY_INSPECT,
                ],
            ),
        ),
    ],
    ids=["every weight is trained", "the memory is not known", "the backend does not train on nf4"],
)
def test_what_cannot_be_quantised_or_judged_is_left_alone(spec: JobSpec, backend: ChosenBackend) -> None:
    assert resolve(spec, backend=backend).spec.spec.train.quantization == ""


def test_a_base_that_comes_quantised_is_left_as_it_is() -> None:
    facts = base_facts()
    facts.quantization.format = "nf4"
    assert "train.quantization" not in reasons(resolve(train_spec(), facts=facts, backend=on(1)))


def test_what_will_be_served_at_four_bits_is_trained_so() -> None:
    resolution = resolve(served(precision="nf4"))
    value, why = reasons(resolution)["train.quantization"]
    assert (value, why) == ("nf4", "it will be served in nf4, so it is trained in nf4")
    assert "train.quantization" not in reasons(resolve(served(precision="bfloat16")))


def test_what_was_given_is_kept() -> None:
    spec = train_spec()
    spec.train.quantization = "nf4"
    assert "train.quantization" not in reasons(resolve(spec, backend=on(1)))


def test_the_default_rank_is_one_that_the_engine_has() -> None:
    assert reasons(resolve(served(engine="vllm")))["train.adapter.lora.rank"][0] == "16"


def test_the_rate_falls_with_the_size_and_with_what_is_trained() -> None:
    def rate(spec: JobSpec, parameters: int) -> tuple[str, str]:
        facts = base_facts(parameter_count=parameters)
        return reasons(resolve(spec, facts=facts))["train.optim.learning_rate"]

    assert rate(train_spec(), 29 * 10**9) == ("0.0002", "adapters on bases below 30B parameters")
    assert rate(train_spec(), 30 * 10**9) == ("0.0001", "adapters on bases of 30B parameters and more")
    assert rate(train_spec(adapter=False), 10**9)[0] == "1e-05"


def test_a_family_may_differ_for_one_method_only() -> None:
    family = dataclasses.replace(
        FAMILY,
        defaults={"train.optim.learning_rate": (5e-5, "this family diverges above")},
        method_defaults={"sft": {"train.optim.learning_rate": (3e-5, "more so here")}},
    )
    found = reasons(resolve(train_spec(), family=family))["train.optim.learning_rate"]
    assert found == ("3e-05", "more so here")
    other = dataclasses.replace(family, method_defaults={"dpo": {"train.seed": (1, "never asked")}})
    assert reasons(resolve(train_spec(), family=other))["train.optim.learning_rate"][0] == "5e-05"
    assert reasons(resolve(train_spec(), family=other))["train.seed"][0] == "42"
