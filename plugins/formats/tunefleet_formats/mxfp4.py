"""MXFP4: four-bit floating point numbers, 32 of them to a scale that is a power of two."""

from __future__ import annotations

from tunefleet_core.catalog.format import Checkpoint, EngineSupport, Format, PackedWeight, Recognised, Variant
from tunefleet_formats.carrier import carrier_format, packed_nibbles
from tunefleet_formats.reading import modules, quantization_config, recognised, shape, word

__all__ = ["MXFP4"]

_GROUP = 32
_BITS = 4 + 8 / _GROUP


def _recognise(checkpoint: Checkpoint) -> Recognised | None:
    config = quantization_config(checkpoint)
    if word(config, "quant_method") == "mxfp4":
        return recognised(checkpoint, _experts(checkpoint), nominal=_BITS, carrier="mxfp4")
    carrier, packing = carrier_format(config)
    if packing != "mxfp4-pack-quantized":
        return None
    weights = packed_nibbles(checkpoint, module_part=".weight_packed", beside=(".weight_scale",))
    return recognised(checkpoint, weights, nominal=_BITS, carrier=carrier)


def _experts(checkpoint: Checkpoint) -> dict[str, PackedWeight]:
    """Return the routed experts of GPT-OSS: blocks of 16 bytes along the inputs, stored transposed."""
    found: dict[str, PackedWeight] = {}
    for name in modules(checkpoint, "_blocks", dtypes=("U8",)):
        experts, outputs, blocks, size = shape(checkpoint, f"{name}_blocks", 4)
        parts = tuple(part for part in (f"{name}_blocks", f"{name}_scales") if part in checkpoint.tensors)
        found[name] = PackedWeight(shape=(experts, blocks * size * 2, outputs), parts=parts)
    return found


MXFP4 = Format(
    name="mxfp4",
    summary="Four-bit floating point in blocks of 32 with a power-of-two scale; how GPT-OSS is published.",
    variants=(Variant(name="", bits_per_weight=_BITS, group_size=_GROUP),),
    recognise=_recognise,
    engines={
        "vllm": EngineSupport(
            device_kinds=("cuda",),
            least_compute_capability="8.0",
            source="vLLM 0.32.0: layers/quantization/mxfp4.py and "
            "compressed_tensors/schemes/compressed_tensors_w4a4_mxfp4.py; on a CPU it has no kernel for it",
        ),
        "sglang": EngineSupport(
            device_kinds=("cpu", "cuda"),
            least_compute_capability="8.0",
            source="SGLang 0.5.23: srt/layers/quantization/mxfp4.py, and among its methods for CPU",
        ),
        "mlx": EngineSupport(
            device_kinds=("cpu", "metal"),
            source="mlx-lm 0.32.2 loads the published GPT-OSS layout; logits within 5e-3 of transformers",
        ),
        "embedded": EngineSupport(
            device_kinds=("cpu", "cuda"),
            source="tried on a CPU with transformers 5.23.0, unpacked while loading; GPT-OSS as published "
            "alone: plugins/formats/tests/test_real_embedded.py",
            is_proven=True,
        ),
    },
    made_by="Made by an export, without calibration: export: {quantize: {format: mxfp4}}.",
    is_unpacked_to_train=True,
    source="OCP Microscaling Formats (MX) Specification 1.0, 2023",
    traps=(
        "GPT-OSS keeps attention, router and embeddings in bfloat16: 4.25 bits hold for the experts alone.",
        "Its experts are stored transposed, [experts, outputs, inputs / 32, 16] with the low nibble first; "
        "the loaded parameter is [experts, inputs, outputs].",
        "transformers reads it without a GPU, as bfloat16: plan the memory of whole weights there.",
    ),
)
