"""GGUF: llama.cpp's one-file models, in blocks of 32 or super-blocks of 256 weights.

A k-quant such as Q4_K_M is a recipe: most tensors in one block type, the sensitive ones in
a larger one. Its bits per weight are therefore those of a whole model; llama.cpp states
them for Llama 3.1 8B. Q3_K_M is missing there and was computed by its recipe for that
model (the same way gives 4.298 for Q3_K_L, as stated); Q4_0 to Q5_1 are the block alone.
"""

from __future__ import annotations

import math
import re

from tunefleet_core.catalog.format import Checkpoint, EngineSupport, Format, PackedWeight, Recognised, Variant

__all__ = ["BLOCK_BITS", "GGUF"]

BLOCK_BITS = {
    # Bytes of a block, times 8, by the weights in it: scales and minima included.
    "F32": 32.0,
    "F16": 16.0,
    "BF16": 16.0,
    "Q4_0": 18 * 8 / 32,
    "Q4_1": 20 * 8 / 32,
    "Q5_0": 22 * 8 / 32,
    "Q5_1": 24 * 8 / 32,
    "Q8_0": 34 * 8 / 32,
    "Q2_K": 84 * 8 / 256,
    "Q3_K": 110 * 8 / 256,
    "Q4_K": 144 * 8 / 256,
    "Q5_K": 176 * 8 / 256,
    "Q6_K": 210 * 8 / 256,
    "Q8_K": 292 * 8 / 256,
    "IQ4_NL": 18 * 8 / 32,
    "IQ4_XS": 136 * 8 / 256,
    "MXFP4": 17 * 8 / 32,
}
"""Bits per weight of GGML's block types (ggml/src/ggml-common.h)."""

_K_GROUP, _GROUP = 256, 32
_VARIANTS = tuple(
    Variant(name=name, bits_per_weight=bits, group_size=group)
    for name, bits, group in (
        ("q4_k_m", 4.8944, _K_GROUP),
        ("q2_k", 3.1593, _K_GROUP),
        ("q3_k_s", 3.6429, _K_GROUP),
        ("q3_k_m", 3.9960, _K_GROUP),
        ("q3_k_l", 4.2979, _K_GROUP),
        ("q4_k_s", 4.6672, _K_GROUP),
        ("q5_k_s", 5.5704, _K_GROUP),
        ("q5_k_m", 5.7036, _K_GROUP),
        ("q6_k", 6.5633, _K_GROUP),
        ("q8_0", 8.5008, _GROUP),
        ("q4_0", BLOCK_BITS["Q4_0"], _GROUP),
        ("q4_1", BLOCK_BITS["Q4_1"], _GROUP),
        ("q5_0", BLOCK_BITS["Q5_0"], _GROUP),
        ("q5_1", BLOCK_BITS["Q5_1"], _GROUP),
        ("f16", 16.0005, 1),
        ("bf16", 16.0005, 1),
        ("f32", 32.0, 1),
    )
)
_SUFFIX = ".gguf"
_NAMED = re.compile(
    r"(?:^|[-._])((?:q\d_k_[sml])|(?:q\d_k)|(?:q\d_[01])|b?f16|f32)(?=[-._]|$)", re.IGNORECASE
)


def _recognise(checkpoint: Checkpoint) -> Recognised | None:
    files = [name for name in checkpoint.files if name.lower().endswith(_SUFFIX)]
    if not files or any(name.endswith(".safetensors") for name in checkpoint.files):
        return None
    named = _NAMED.search(files[0].lower().removesuffix(_SUFFIX))
    variant = named[1].lower() if named else ""
    known = next((item for item in _VARIANTS if item.name == variant), None)
    return _measured(checkpoint, variant=variant if known else "", nominal=(known or _VARIANTS[0]))


def _measured(checkpoint: Checkpoint, *, variant: str, nominal: Variant) -> Recognised:
    """Weigh matrices alone: vectors stay in float32 whatever the variant."""
    weights: dict[str, PackedWeight] = {}
    bits = 0.0
    for name, (kind, shape) in checkpoint.tensors.items():
        if len(shape) > 1 and kind in BLOCK_BITS:
            weights[name] = PackedWeight(shape=shape, parts=(name,))
            bits += math.prod(shape) * BLOCK_BITS[kind]
    number = sum(math.prod(packed.shape) for packed in weights.values())
    measured = bits / number if number else nominal.bits_per_weight
    return Recognised(variant=variant, carrier="gguf", bits_per_weight=measured, weights=weights)


GGUF = Format(
    name="gguf",
    summary="llama.cpp's one-file models; k-quants from two to six bits, for laptops and CPUs.",
    variants=_VARIANTS,
    recognise=_recognise,
    engines={
        "vllm": EngineSupport(
            device_kinds=("cuda",),
            least_compute_capability="7.0",
            requires="vllm-gguf-plugin",
            source="vLLM 0.32.0: no `gguf` among its own methods; pypi.org/project/vllm-gguf-plugin",
        ),
        "sglang": EngineSupport(
            flags=("--load-format", "gguf", "--quantization", "gguf"),
            device_kinds=("cuda",),
            least_compute_capability="6.0",
            source="SGLang 0.5.23: srt/layers/quantization/gguf.py",
        ),
    },
    made_by="Made by an export, without calibration: export: {quantize: {format: gguf, variant: q4_k_m}}.",
    source="llama.cpp, tools/quantize/README.md (bits per weight of Llama 3.1 8B) and docs of ggml's GGUF",
    traps=(
        "Rows of a k-quant must be multiples of 256 long; llama.cpp takes a block type of 32 for others.",
        "A GGUF file is no base to train on: it has no config.json, and its tokenizer is llama.cpp's.",
    ),
)
