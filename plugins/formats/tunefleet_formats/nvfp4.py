"""NVFP4: four-bit floating point numbers, 16 of them to an FP8 scale, and one scale per tensor."""

from __future__ import annotations

from tunefleet_core.catalog.format import Checkpoint, EngineSupport, Format, Recognised, Variant
from tunefleet_formats.carrier import carrier_format, packed_nibbles
from tunefleet_formats.reading import quantization_config, recognised, word

__all__ = ["NVFP4"]

_GROUP = 16
_BITS = 4 + 8 / _GROUP
_SCALES = (".weight_scale", ".weight_global_scale", ".input_global_scale")
_MODELOPT_SCALES = (".weight_scale", ".weight_scale_2", ".input_scale")


def _recognise(checkpoint: Checkpoint) -> Recognised | None:
    config = quantization_config(checkpoint)
    method = word(config, "quant_method")
    if method in ("modelopt", "modelopt_fp4") and "nvfp4" in word(config, "quant_algo"):
        weights = packed_nibbles(checkpoint, module_part=".weight", beside=_MODELOPT_SCALES)
        return recognised(checkpoint, weights, nominal=_BITS, carrier="modelopt")
    carrier, packing = carrier_format(config)
    if packing != "nvfp4-pack-quantized":
        return None
    weights = packed_nibbles(checkpoint, module_part=".weight_packed", beside=_SCALES)
    return recognised(checkpoint, weights, nominal=_BITS, carrier=carrier)


NVFP4 = Format(
    name="nvfp4",
    summary="Four-bit floating point in blocks of 16 with FP8 scales; computed natively from Blackwell on.",
    variants=(Variant(name="", bits_per_weight=_BITS, group_size=_GROUP),),
    recognise=_recognise,
    engines={
        "vllm": EngineSupport(
            device_kinds=("cuda",),
            least_compute_capability="7.5",
            source="vLLM 0.32.0: compressed_tensors/schemes/compressed_tensors_w4a4_nvfp4.py; before "
            "Blackwell weights only, through Marlin; on a CPU it has no kernel for it",
        ),
        "sglang": EngineSupport(
            device_kinds=("cuda",),
            least_compute_capability="10.0",
            source="SGLang 0.5.23: compressed_tensors/schemes/compressed_tensors_w4a4_nvfp4.py",
        ),
        "embedded": EngineSupport(
            device_kinds=("cpu", "cuda"),
            requires="compressed-tensors",
            source="transformers 5.23.0: quantizers/quantizer_compressed_tensors.py; unpacked while loading",
        ),
    },
    made_by="Made by an export with calibration rows: export: {quantize: {format: nvfp4}}.",
    needs_calibration=True,
    source="NVIDIA, Introducing NVFP4 (2025); Blackwell architecture",
    traps=(
        "The global scale divides in compressed-tensors and multiplies in ModelOpt's checkpoints: whoever "
        "mixes them up gets garbage, not an error.",
        "Weights alone can be NVFP4 (NVFP4A16): SGLang runs these from 8.0 on.",
    ),
)
