"""Layouts that no library at hand writes, unquantised models, and configs that make no sense."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunefleet_core.catalog import FormatRegistry
from tunefleet_core.catalog.format import Checkpoint, Format, Recognised
from tunefleet_formats.plugin import FORMATS

REGISTRY = FormatRegistry(FORMATS)
Tensors = dict[str, tuple[str, tuple[int, ...]]]


def recognise(
    config: dict[str, object], tensors: Tensors | None = None, *files: str
) -> tuple[Format, Recognised] | None:
    return REGISTRY.recognise(Checkpoint(config=config, tensors=tensors or {}, files=files))


def named(found: tuple[Format, Recognised] | None) -> tuple[str, str, str] | None:
    return (found[0].name, found[1].variant, found[1].carrier) if found else None


def test_experts_of_gpt_oss_are_mxfp4_and_transposed() -> None:
    """The layout of openai/gpt-oss-20b: [experts, outputs, inputs / 32, 16] blocks, a byte per block."""
    name = "model.layers.0.mlp.experts.gate_up_proj"
    tensors: Tensors = {
        f"{name}_blocks": ("U8", (4, 256, 2, 16)),
        f"{name}_scales": ("U8", (4, 256, 2)),
        f"{name}_bias": ("BF16", (4, 256)),
    }
    found = recognise({"quantization_config": {"quant_method": "mxfp4"}}, tensors)
    assert named(found) == ("mxfp4", "", "mxfp4")
    assert found is not None
    assert found[1].bits_per_weight == 4.25
    assert found[1].weights[name].shape == (4, 64, 256)
    assert found[1].weights[name].parts == (f"{name}_blocks", f"{name}_scales")


def test_block_scales_of_deepseek_and_qwen_are_fp8() -> None:
    tensors: Tensors = {
        "model.layers.0.mlp.up_proj.weight": ("F8_E4M3", (256, 512)),
        "model.layers.0.mlp.up_proj.weight_scale_inv": ("F32", (2, 4)),
        "model.norm.weight": ("BF16", (512,)),
    }
    config: dict[str, object] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
    found = recognise({"quantization_config": config}, tensors)
    assert named(found) == ("fp8", "block", "fp8")
    assert found is not None
    assert found[1].bits_per_weight == 8 + 32 / 128**2
    assert list(found[1].weights) == ["model.layers.0.mlp.up_proj.weight"]


def test_checkpoints_of_modelopt_say_their_algorithm() -> None:
    tensors: Tensors = {
        "up.weight": ("U8", (64, 32)),
        "up.weight_scale": ("F8_E4M3", (64, 4)),
        "up.weight_scale_2": ("F32", ()),
        "up.input_scale": ("F32", ()),
    }
    found = recognise({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}, tensors)
    assert named(found) == ("nvfp4", "", "modelopt")
    assert found is not None
    assert found[1].weights["up.weight"].shape == (64, 64)
    found = recognise({"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}})
    assert named(found) == ("fp8", "tensor", "modelopt")


def test_groups_that_are_packed_differently_are_mixed() -> None:
    scheme: dict[str, object] = {"num_bits": 4, "symmetric": True}
    groups: dict[str, object] = {
        "group_0": {"format": "pack-quantized", "weights": scheme},
        "group_1": {"format": "float-quantized", "weights": {"num_bits": 8}},
    }
    config: dict[str, object] = {"quant_method": "compressed-tensors", "config_groups": groups}
    tensors: Tensors = {
        "a.weight_packed": ("I32", (128, 16)),
        "a.weight_scale": ("BF16", (128, 1)),
        "b.weight": ("F8_E4M3", (128, 128)),
        "b.weight_scale": ("BF16", (128, 1)),
    }
    found = recognise({"quantization_config": config}, tensors)
    assert named(found) == ("compressed-tensors", "mixed", "compressed-tensors")
    assert found is not None
    assert found[1].bits_per_weight == pytest.approx(6 + 16 / 128)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"load_in_4bit": True}, ("fp4", "single", "bitsandbytes")),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, ("nf4", "single", "bitsandbytes")),
        ({"load_in_8bit": True}, ("int8", "", "bitsandbytes")),
        ({}, None),
    ],
)
def test_a_config_alone_is_enough_for_bitsandbytes(
    config: dict[str, object], wanted: tuple[str, str, str] | None
) -> None:
    assert named(recognise({"quantization_config": {"quant_method": "bitsandbytes", **config}})) == wanted


@pytest.mark.parametrize(
    ("file", "variant", "bits"),
    [
        ("Qwen3-8B-Q4_K_M.gguf", "q4_k_m", 4.8944),
        ("model.q8_0.gguf", "q8_0", 8.5008),
        ("tiny_bf16-00001-of-00002.gguf", "bf16", 16.0005),
        ("model.gguf", "", 4.8944),
    ],
)
def test_a_gguf_file_tells_its_variant_by_its_name(file: str, variant: str, bits: float) -> None:
    found = recognise({}, {}, file, "README.md")
    assert named(found) == ("gguf", variant, "gguf")
    assert found is not None
    assert found[1].bits_per_weight == bits


def test_a_model_that_is_not_quantised_is_of_no_format() -> None:
    assert recognise({"model_type": "qwen3"}, {"a.weight": ("BF16", (4, 4))}, "model.safetensors") is None
    assert recognise({"quantization_config": {"quant_method": "someone-elses"}}) is None
    assert recognise({}, {}, "model.gguf", "model.safetensors") is None


def test_the_quantisation_of_a_nested_language_model_is_seen() -> None:
    quantization: dict[str, object] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    assert named(recognise({"text_config": {"quantization_config": quantization}})) == (
        "gptq",
        "4bit",
        "gptq",
    )


def test_every_format_says_what_it_is() -> None:
    for item in FORMATS:
        assert item.summary.endswith("."), item.name
        assert item.made_by.endswith("."), item.name
        assert item.source, item.name
        assert item.traps, item.name
        assert item.engines, item.name
        assert all(variant.bits_per_weight > 0 for variant in item.variants), item.name
        assert len({variant.name for variant in item.variants}) == len(item.variants)
        assert len(item.variants) == 1 or all(variant.name for variant in item.variants), item.name
        for engine, support in item.engines.items():
            assert support.source, (item.name, engine)


WORDS = st.sampled_from(
    [
        *(
            "bitsandbytes",
            "awq",
            "gptq",
            "fp8",
            "mxfp4",
            "modelopt",
            "compressed-tensors",
            "auto-round",
            "nf4",
        ),
        *("pack-quantized", "float-quantized", "int-quantized", "mxfp4-pack-quantized", "mixed-precision"),
        *("auto_round:auto_gptq", "auto_round:llm_compressor", "mx_fp", "nvfp4", "affine", ""),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | WORDS,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3) | WORDS, inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    [
        *("quant_method", "bits", "group_size", "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type"),
        *("config_groups", "format", "weights", "num_bits", "strategy", "symmetric", "packing_format"),
        *("data_type", "quant_algo", "weight_block_size", "mode"),
    ]
)
QUANTIZATION = VALUES | st.dictionaries(FIELDS, VALUES | WORDS, max_size=6)
CONFIGS = st.dictionaries(
    st.sampled_from(["quantization_config", "quantization", "text_config", "hidden_size", "model_type"]),
    QUANTIZATION,
    max_size=4,
)
NAMES = st.sampled_from(
    [
        f"{module}{part}"
        for module in ("a", "model.layers.0.mlp.down_proj")
        for part in (
            *(".weight", ".qweight", ".qzeros", ".scales", ".biases", ".weight_packed", ".weight_scale"),
            *(".weight.absmax", ".weight.quant_state.bitsandbytes__nf4", ".SCB", "_blocks", "_scales"),
        )
    ]
)
DTYPES = st.sampled_from(["U8", "I8", "I32", "U32", "F8_E4M3", "BF16", "F32", "Q4_K", "NEW"])
SHAPES = st.lists(st.integers(min_value=0, max_value=2**62), max_size=4).map(tuple)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    config=CONFIGS,
    tensors=st.dictionaries(NAMES, st.tuples(DTYPES, SHAPES), max_size=6),
    files=st.lists(st.sampled_from(["a.gguf", "q4_k_m.gguf", ".gguf", "model.safetensors", ""]), max_size=2),
)
def test_no_format_raises_whatever_a_checkpoint_says(
    config: dict[str, object], tensors: Tensors, files: list[str]
) -> None:
    checkpoint = Checkpoint(config=config, tensors=tensors, files=files)
    for item in FORMATS:
        assert item.recognise is not None
        found = item.recognise(checkpoint)
        assert found is None or found.bits_per_weight > 0


@settings(max_examples=100, deadline=None)
@given(config=VALUES)
def test_no_format_raises_on_a_config_of_another_kind(config: object) -> None:
    checkpoint = Checkpoint(config=config)  # type: ignore[arg-type]  # what a plugin may be handed
    for item in FORMATS:
        assert item.recognise is not None
        item.recognise(checkpoint)
