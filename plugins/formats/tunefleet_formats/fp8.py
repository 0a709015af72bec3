"""FP8: eight-bit floating point numbers (E4M3) with a scale per channel, block or tensor."""

from __future__ import annotations

from collections.abc import Mapping

from tunefleet_core.catalog.format import Checkpoint, EngineSupport, Format, Recognised, Variant
from tunefleet_formats.carrier import carrier_format, scaled
from tunefleet_formats.reading import groups, quantization_config, recognised, section, word

__all__ = ["FP8"]

_BLOCK = 128
_INPUTS = 4096  # what figures per weight are stated for where a scale belongs to an output
_VARIANTS = (
    Variant(name="channel", bits_per_weight=8 + 16 / _INPUTS),
    Variant(name="block", bits_per_weight=8 + 32 / _BLOCK**2, group_size=_BLOCK),
    Variant(name="tensor", bits_per_weight=8.0),
)
_BESIDE = (".weight_scale", ".weight_scale_inv", ".input_scale", ".weight_zero_point")
_OWN = ("fp8", "fbgemm_fp8")


def _recognise(checkpoint: Checkpoint) -> Recognised | None:
    config = quantization_config(checkpoint)
    carrier = _carrier(config)
    if not carrier:
        return None
    variant = _variant(config)
    return recognised(
        checkpoint,
        scaled(checkpoint, dtypes=("F8_E4M3", "F8_E5M2"), beside=_BESIDE),
        nominal=variant.bits_per_weight,
        carrier=carrier,
        variant=variant.name,
    )


def _carrier(config: Mapping[str, object]) -> str:
    method = word(config, "quant_method")
    if method in _OWN:
        return "fp8"
    if method == "modelopt":
        return method if word(config, "quant_algo") == "fp8" else ""
    carrier, packing = carrier_format(config)
    return carrier if packing == "float-quantized" else ""


def _variant(config: Mapping[str, object]) -> Variant:
    channel, block, tensor = _VARIANTS
    if config.get("weight_block_size"):
        return block
    method = word(config, "quant_method")
    if method in ("fp8", "modelopt"):
        return tensor
    strategies = {word(section(group, "weights"), "strategy") for group in groups(config)}
    return block if "block" in strategies else tensor if strategies == {"tensor"} else channel


FP8 = Format(
    name="fp8",
    summary="Eight-bit floating point weights and activations; the least loss, half the memory of bfloat16.",
    variants=_VARIANTS,
    recognise=_recognise,
    engines={
        "vllm": EngineSupport(
            device_kinds=("cpu", "cuda"),
            least_compute_capability="7.5",
            source="vLLM 0.32.0: layers/quantization/fp8.py; below 8.9 weights only, through Marlin "
            "(docs/features/quantization/llm_compressor/fp8.md); an export by channel tried by hand on a CPU "
            "(docs/adr/0053)",
        ),
        "sglang": EngineSupport(
            device_kinds=("cpu", "cuda"),
            least_compute_capability="8.0",
            source="SGLang 0.5.23: srt/layers/quantization/fp8.py, and among its methods for CPU",
        ),
        "embedded": EngineSupport(
            device_kinds=("cpu", "cuda"),
            requires="compressed-tensors",
            source="transformers 5.23.0: quantizers/quantizer_compressed_tensors.py; unpacked while loading",
        ),
    },
    made_by="Made by an export, without calibration: export: {quantize: {format: fp8}}.",
    source="Micikevicius et al. 2022, FP8 Formats for Deep Learning, arXiv:2209.05433",
    traps=(
        "vLLM quantises no checkpoint to FP8 on a CPU while loading.",
        "DeepSeek's and Qwen's own FP8 checkpoints keep float32 scales per block of 128 x 128 in "
        "weight_scale_inv, which multiplies in spite of its name.",
    ),
)
