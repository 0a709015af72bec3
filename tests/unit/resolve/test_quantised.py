"""Bases that are stored quantised: who trains on them, what it takes, and what is refused at submit."""

from __future__ import annotations

import pytest
from resolve_lab import TRAINERS, base_facts, chosen, refusal, resolve, train_spec

from tunefleet.backend.v1.backend_pb2 import Capability, FormatScope
from tunefleet.model.v1.base_pb2 import BaseFacts, Quantization
from tunefleet_core.backend import trained_formats
from tunefleet_core.errors import Reason
from tunefleet_core.resolve import check_backend

LINEAR, REST = 8 * 8 + 32 * 8, 100 * 8


def stored(name: str, bits: float, carrier: str = "x") -> BaseFacts:
    facts = base_facts()
    facts.quantization.CopyFrom(Quantization(format=name, carrier=carrier, bits_per_weight=bits))
    return facts


def test_an_adapter_trains_on_a_base_of_a_format_that_the_backend_knows() -> None:
    estimate = resolve(train_spec(), facts=stored("nf4", 4.6)).spec.estimate
    assert estimate.weights_bytes == LINEAR * 4.6 / 8 + REST * 4


def test_a_format_that_is_unpacked_to_train_takes_whole_weights() -> None:
    backend = chosen(trained_formats=["mxfp4"])
    estimate = resolve(train_spec(), facts=stored("mxfp4", 4.25), backend=backend).spec.estimate
    assert estimate.weights_bytes == (LINEAR + REST) * 4


def test_a_base_of_a_format_that_the_backend_does_not_train_on_is_refused_by_name() -> None:
    error = refusal(Reason.CAPABILITY_UNSUPPORTED, lambda: resolve(train_spec(), facts=stored("awq", 4.16)))
    assert error.message == (
        "train.base.model: 'org/tiny' is stored in awq, which the backend 'trl' does not train on; "
        "it trains on nf4."
    )
    assert error.metadata["format"] == "awq"
    assert error.violations[0].field == "train.base.model"


@pytest.mark.parametrize(
    ("model_type", "carrier", "said"),
    [
        (
            "llama",
            "mxfp4",
            "and of the type 'llama'; the backend 'trl' trains on mxfp4 only for the type gpt",
        ),
        ("gpt_oss", "compressed-tensors", "carried by compressed-tensors; the backend 'trl' trains on mxfp4"),
        ("gpt_oss", "", "carried by nothing known; the backend"),
    ],
)
def test_a_format_that_is_trained_on_for_some_models_only_is_refused_for_the_others(
    model_type: str, carrier: str, said: str
) -> None:
    scope = FormatScope(format="mxfp4", model_types=["gpt_oss"], carriers=["mxfp4"])
    backend = chosen(trained_formats=["mxfp4"], trained_scopes=[scope])
    facts = stored("mxfp4", 4.25, carrier)
    facts.model_type = model_type
    error = refusal(
        Reason.CAPABILITY_UNSUPPORTED, lambda: resolve(train_spec(), facts=facts, backend=backend)
    )
    assert error.message.startswith("train.base.model: 'org/tiny' is stored in mxfp4")
    assert said in error.message
    assert error.hint.startswith("Name the base that it was quantised from")
    assert error.violations[0].field == "train.base.model"
    facts.model_type, facts.quantization.carrier = "gpt_oss", "mxfp4"
    assert resolve(train_spec(), facts=facts, backend=backend)


def test_a_base_of_no_known_format_is_refused_with_what_carries_it() -> None:
    error = refusal(
        Reason.CAPABILITY_UNSUPPORTED, lambda: resolve(train_spec(), facts=stored("", 0.0, "exl9"))
    )
    assert "stored in a format that no plugin knows (exl9)" in error.message


def test_a_quantised_base_is_not_trained_in_full() -> None:
    error = refusal(
        Reason.FIELD_INVALID, lambda: resolve(train_spec(adapter=False), facts=stored("nf4", 4.6))
    )
    assert error.message.startswith(
        "train.adapter: 'org/tiny' is stored in nf4: its weights cannot be trained"
    )


def test_a_quantised_base_is_not_quantised_again_but_to_what_it_is() -> None:
    spec = train_spec()
    spec.train.quantization = "nf4"
    resolve(spec, facts=stored("nf4", 4.6))
    both = chosen(trained_formats=["fp4", "nf4"])
    error = refusal(Reason.FIELD_INVALID, lambda: resolve(spec, facts=stored("fp4", 4.6), backend=both))
    assert "is stored in fp4 already and cannot be quantised to nf4" in error.message


def test_what_quantising_took_cannot_be_read_from_a_base_that_is_stored_quantised() -> None:
    spec = train_spec()
    spec.train.adapter.lora.init, spec.train.quantization = "loftq", "nf4"
    knows = chosen(choices={"train.adapter.lora.init": ["loftq"]})
    resolve(spec, backend=knows)
    error = refusal(Reason.FIELD_INVALID, lambda: resolve(spec, facts=stored("nf4", 4.6), backend=knows))
    assert "what quantising took from it cannot be read" in error.message


def test_nothing_is_merged_into_a_quantised_base_unless_it_is_unpacked() -> None:
    spec = train_spec()
    spec.train.merge = True
    error = refusal(Reason.FIELD_INVALID, lambda: resolve(spec, facts=stored("nf4", 4.6)))
    assert error.message.startswith("train.merge: 'org/tiny' is stored in nf4, and nothing can be merged")
    resolve(spec, facts=stored("mxfp4", 4.25), backend=chosen(trained_formats=["mxfp4"]))


@pytest.mark.parametrize("wanted", ["fp4", "int8"])
def test_a_quantisation_needs_a_backend_that_trains_on_it(wanted: str) -> None:
    spec = train_spec()
    spec.train.quantization = wanted
    check_backend(spec, chosen(trained_formats=["nf4", wanted]).manifest)
    error = refusal(Reason.CAPABILITY_UNSUPPORTED, lambda: check_backend(spec, chosen().manifest))
    assert error.message == (
        f"train.quantization: asks for {wanted}, which the backend 'trl' does not train on; it trains on nf4."
    )
    assert (error.metadata["capability"], error.metadata["format"]) == ("TRAINED_FORMATS", wanted)


def test_the_older_capability_says_the_same_of_nf4() -> None:
    assert trained_formats(chosen().manifest) == ("nf4",)
    without = [item for item in TRAINERS if item != Capability.CAPABILITY_QLORA_NF4]
    assert trained_formats(chosen(capabilities=without).manifest) == ()
    both = chosen(capabilities=without, trained_formats=["nf4", "int8"])
    assert trained_formats(both.manifest) == ("int8", "nf4")


def test_whole_weights_are_trained_as_ever() -> None:
    assert resolve(train_spec(adapter=False)).spec.estimate.weights_bytes == (LINEAR + REST) * 4
