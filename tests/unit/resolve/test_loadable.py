"""A model in a quantisation format goes to an engine that loads it, or is refused before one starts."""

from __future__ import annotations

import pytest

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability, FormatScope
from tunefleet.model.v1.base_pb2 import BaseFacts, Quantization
from tunefleet_core.backend import backend_manifest
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.resolve import engines_that_load


def _engine(name: str, *formats: str) -> BackendManifest:
    return backend_manifest(
        name=name,
        distribution=f"tunefleet-{name}",
        summary="Serves.",
        capabilities=[Capability.CAPABILITY_SERVE],
        device_kinds=["cpu"],
        served_formats=formats,
    )


_PLAIN, _ABLE = _engine("plain", "nf4"), _engine("able", "nf4", "gptq")


def test_only_those_that_load_it_are_left() -> None:
    assert engines_that_load("gptq", [_PLAIN, _ABLE]) == [_ABLE]
    assert engines_that_load("gptq", [_PLAIN, _ABLE], asked="able") == [_ABLE]
    assert engines_that_load("nf4", [_PLAIN, _ABLE]) == [_PLAIN, _ABLE]


def test_the_one_asked_for_is_refused_with_one_that_does() -> None:
    with pytest.raises(TunefleetError, match="'plain' does not load models stored as gptq") as raised:
        engines_that_load("gptq", [_PLAIN, _ABLE], asked="plain")
    assert raised.value.reason is Reason.CAPABILITY_UNSUPPORTED
    assert "able" in raised.value.hint
    assert raised.value.metadata == {"engine": "plain", "format": "gptq"}


@pytest.mark.parametrize(
    ("model_type", "carrier", "is_loaded"),
    [("gpt_oss", "mxfp4", True), ("llama", "mxfp4", False), ("gpt_oss", "compressed-tensors", False)],
)
def test_an_engine_that_loads_a_format_for_some_models_only_is_refused_for_the_others(
    model_type: str, carrier: str, is_loaded: bool
) -> None:
    engine = _engine("embedded", "mxfp4")
    engine.served_scopes.append(FormatScope(format="mxfp4", model_types=["gpt_oss"], carriers=["mxfp4"]))
    facts = BaseFacts(model_type=model_type, quantization=Quantization(format="mxfp4", carrier=carrier))
    assert engines_that_load("mxfp4", [engine]) == [engine], "before the checkpoint is read"
    if is_loaded:
        assert engines_that_load("mxfp4", [engine], facts=facts) == [engine]
        return
    wide = _engine("vllm", "mxfp4")
    assert engines_that_load("mxfp4", [engine, wide], facts=facts) == [wide]
    with pytest.raises(TunefleetError, match="'embedded' does not load models stored as mxfp4") as raised:
        engines_that_load("mxfp4", [engine, wide], asked="embedded", facts=facts)
    assert "vllm" in raised.value.hint
    assert ("in compressed-tensors" in raised.value.message) is (carrier != "mxfp4")


def test_a_fleet_in_which_none_does_is_told_so() -> None:
    with pytest.raises(TunefleetError, match="No engine of the fleet loads models stored as gguf"):
        engines_that_load("gguf", [_PLAIN, _ABLE])


def test_an_engine_that_nobody_has_is_left_to_the_refusal_that_says_so() -> None:
    assert engines_that_load("gguf", [_PLAIN], asked="elsewhere") == [_PLAIN]
    assert engines_that_load("gguf", []) == []
