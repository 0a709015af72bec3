"""Formats: found by name, recognised, and refused where two claim one checkpoint."""

from __future__ import annotations

import logging

import pytest

from tunefleet_core.catalog.format import Checkpoint, Format, Recognise, Recognised, Variant
from tunefleet_core.catalog.format_registry import FormatRegistry
from tunefleet_core.errors import Reason, TunefleetError


def claims(word: str) -> Recognise:
    def recognise(checkpoint: Checkpoint) -> Recognised | None:
        return Recognised(bits_per_weight=4.5) if checkpoint.config.get("quant") == word else None

    return recognise


def broken(checkpoint: Checkpoint) -> Recognised | None:
    raise KeyError("quant")


def make(name: str, recognise: Recognise | None, *variants: str) -> Format:
    forms = tuple(Variant(name=item, bits_per_weight=4.5) for item in variants or ("",))
    return Format(name=name, summary="", variants=forms, recognise=recognise)


REGISTRY = FormatRegistry(
    [make("nf4", claims("x")), make("awq", claims("y")), make("gguf", None, "q4_k_m", "q8_0")]
)


def test_a_format_is_found_by_its_name() -> None:
    assert REGISTRY.names() == ("awq", "gguf", "nf4")
    assert REGISTRY.for_name("nf4", field="train.quantization").name == "nf4"
    assert REGISTRY.get("nothing") is None


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(TunefleetError) as caught:
        REGISTRY.for_name("nf-4", field="train.quantization")
    assert caught.value.reason is Reason.FIELD_INVALID
    assert "no quantisation format is called 'nf-4'; did you mean 'nf4'?" in str(caught.value)
    assert caught.value.hint.startswith("Known are: awq, gguf, nf4.")


def test_a_variant_is_found_and_the_first_is_the_usual_one() -> None:
    gguf = REGISTRY.for_name("gguf", field="f")
    assert REGISTRY.variant(gguf, "", field="f").name == "q4_k_m"
    assert REGISTRY.variant(gguf, "q8_0", field="f").name == "q8_0"
    with pytest.raises(TunefleetError, match=r"no variant of gguf is called 'q4km'; did you mean 'q4_k_m'"):
        REGISTRY.variant(gguf, "q4km", field="f")


def test_a_checkpoint_is_of_the_format_that_claims_it() -> None:
    found = REGISTRY.recognise(Checkpoint(config={"quant": "y"}))
    assert found is not None
    assert (found[0].name, found[1].bits_per_weight) == ("awq", 4.5)
    assert REGISTRY.recognise(Checkpoint(config={})) is None


def test_two_formats_that_claim_one_checkpoint_are_both_named() -> None:
    registry = FormatRegistry([make("nf4", claims("x")), make("mine", claims("x"))])
    with pytest.raises(TunefleetError, match="'mine' and 'nf4' both claim") as caught:
        registry.recognise(Checkpoint(config={"quant": "x"}))
    assert caught.value.reason is Reason.BASE_INVALID


def test_a_format_that_raises_is_left_out_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    registry = FormatRegistry([make("a-broken", broken), make("nf4", claims("x"))])
    with caplog.at_level(logging.ERROR):
        found = registry.recognise(Checkpoint(config={"quant": "x"}))
    assert found is not None
    assert found[0].name == "nf4"
    assert "The format 'a-broken' raised" in caplog.text
