"""How an engine runs a deployment: wrong values are named with the nearest right one, the rest is decided."""

from __future__ import annotations

import pytest

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet.job.v1.resolved_pb2 import ChatTemplate
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet.type.v1.engine_pb2 import EngineSettings, Speculation
from tunefleet_core.backend import backend_manifest
from tunefleet_core.catalog import EngineParsers
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle.capacity import parallel_devices
from tunefleet_core.resolve import settle_engine

QWEN3 = BaseFacts(model_type="qwen3", architectures=["Qwen3ForCausalLM"])
PARSERS = EngineParsers(tool="hermes", reasoning="qwen3")
EVERYTHING = tuple(field.name for field in EngineSettings.DESCRIPTOR.fields)


def engine(name: str = "vllm", *, settings: tuple[str, ...] = EVERYTHING) -> BackendManifest:
    own = [Capability.CAPABILITY_ADAPTER_TEMPLATES] if name == "embedded" else []
    return backend_manifest(
        name=name,
        distribution=name,
        summary="",
        capabilities=[Capability.CAPABILITY_SERVE, *own],
        device_kinds=["cpu"],
        engine_settings=settings,
    )


@pytest.mark.parametrize(
    ("asked", "field", "why"),
    [
        ({"tool_parser": "hermess"}, "tool_parser", "the nearest: hermes"),
        ({"reasoning_parser": "qwen"}, "reasoning_parser", "the nearest: qwen3"),
        ({"max_adapter_rank": 24}, "max_adapter_rank", "takes 1, 8, 16, 32"),
        ({"options": {"max-num-seq": 8}}, "options.max-num-seq", "the nearest: max-num-seqs"),
        ({"options": {"enforce": True}}, "options.enforce", "the nearest: enforce-eager"),
        ({"memory_share": 1.5}, "memory_share", "up to 1"),
        ({"tensor_parallel": -1}, "tensor_parallel", "negative"),
        ({"speculation": Speculation(method="ngram")}, "speculation.tokens", "at least 1"),
        ({"chat_template": "x"}, "chat_template", "cannot be given"),
    ],
)
def test_what_is_wrong_is_named_with_the_nearest_that_is_right(
    asked: dict[str, object], field: str, why: str
) -> None:
    options = asked.pop("options", {})
    settings = EngineSettings(**asked)
    settings.options.update(options)
    with pytest.raises(TunefleetError) as caught:
        settle_engine(settings, engine(), base=QWEN3)
    assert caught.value.reason is Reason.FIELD_INVALID
    (violation,) = caught.value.violations
    assert violation.field == f"spec.engine_settings.{field}"
    assert why in violation.description


def test_a_setting_that_the_engine_does_not_have_is_refused() -> None:
    with pytest.raises(TunefleetError, match="is no setting of the engine 'embedded'"):
        settle_engine(EngineSettings(memory_share=0.5), engine("embedded", settings=()), base=QWEN3)


def test_guessing_ahead_is_refused_where_the_engine_cannot_and_who_can_is_named() -> None:
    by_ngrams = EngineSettings(speculation=Speculation(tokens=3))
    drafted = EngineSettings(speculation=Speculation(tokens=3, draft_model="/models/small"))
    for asked in (by_ngrams, drafted):
        with pytest.raises(TunefleetError, match="no setting of the engine 'embedded'; vllm and sglang"):
            settle_engine(asked, engine("embedded", settings=()), base=QWEN3)
    mlx = engine("mlx", settings=("speculation.draft_model",))
    with pytest.raises(TunefleetError, match="name its folder; vllm and sglang") as caught:
        settle_engine(by_ngrams, mlx, base=QWEN3)
    assert caught.value.violations[0].field == "spec.engine_settings.speculation.draft_model"
    assert settle_engine(drafted, mlx, base=QWEN3).speculation == drafted.speculation
    with pytest.raises(TunefleetError, match="at least 1"):
        settle_engine(EngineSettings(speculation=Speculation(draft_model="x")), mlx, base=QWEN3)


def test_the_family_and_the_adapter_decide_what_is_left_out() -> None:
    found = settle_engine(EngineSettings(), engine(), base=QWEN3, parsers=PARSERS, rank=16)
    assert (found.tool_parser, found.reasoning_parser) == ("hermes", "qwen3")
    assert (found.max_adapter_rank, found.max_adapters) == (64, 8)
    other = settle_engine(EngineSettings(), engine(), base=QWEN3, parsers=PARSERS, rank=0)
    assert other == found, "the base and its adapters share an engine"
    large = settle_engine(EngineSettings(), engine(), base=QWEN3, parsers=PARSERS, rank=100)
    assert large.max_adapter_rank == 128
    off = settle_engine(EngineSettings(tool_parser="none"), engine(), base=QWEN3, parsers=PARSERS)
    assert off.tool_parser == "none"


def test_too_little_room_for_the_adapter_is_refused() -> None:
    with pytest.raises(TunefleetError, match="the adapter's rank is 32"):
        settle_engine(EngineSettings(max_adapter_rank=16), engine(), base=QWEN3, rank=32)


def test_a_class_that_takes_no_adapters_gets_no_room_for_them() -> None:
    deepseek = BaseFacts(model_type="deepseek_v4", architectures=["DeepseekV4ForCausalLM"])
    assert not settle_engine(EngineSettings(), engine(), base=deepseek).max_adapter_rank


def test_the_trained_template_is_the_engines_where_adapters_have_none_of_their_own() -> None:
    trained = ChatTemplate(text="trained", source="family:qwen3")
    assert settle_engine(EngineSettings(), engine(), base=QWEN3, template=trained).chat_template == "trained"
    own = ChatTemplate(text="own", source="base")
    assert not settle_engine(EngineSettings(), engine(), base=QWEN3, template=own).chat_template
    each = engine("embedded", settings=())
    assert not settle_engine(EngineSettings(), each, base=QWEN3, template=trained).chat_template


def test_an_engine_needs_a_device_for_each_part() -> None:
    assert parallel_devices(EngineSettings()) == 1
    assert parallel_devices(EngineSettings(tensor_parallel=2, pipeline_parallel=3, data_parallel=2)) == 12
    over_hosts = EngineSettings(tensor_parallel=4, pipeline_parallel=2)
    over_hosts.options.update({"nnodes": 2})
    assert parallel_devices(over_hosts) == 4, "the devices of its own host"


@pytest.mark.parametrize(("asked", "settled"), [("", "bfloat16"), ("float16", "float16")])
def test_rounded_weights_are_computed_in_16_bits(asked: str, settled: str) -> None:
    rounded = BaseFacts(model_type="qwen3", architectures=["Qwen3ForCausalLM"])
    rounded.quantization.format = "compressed-tensors"
    assert settle_engine(EngineSettings(dtype=asked), engine(), base=rounded).dtype == settled
    assert not settle_engine(EngineSettings(), engine(), base=QWEN3).dtype, "whole ones: the engine's choice"
    assert not settle_engine(EngineSettings(), engine("mlx", settings=()), base=rounded).dtype
