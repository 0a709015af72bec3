"""What the 4-bit formats of bitsandbytes have in common: how its checkpoints are laid out.

Each linear weight is stored flat, two numbers to a byte, and the shape stands in a JSON
text that is itself a tensor: a header alone tells only how many numbers there are. The
matrix is told from the width of the model, which is one side of every linear layer that
gets an adapter.
"""

from __future__ import annotations

import math

from tunefleet_core.catalog.format import (
    Checkpoint,
    EngineSupport,
    PackedWeight,
    Recognise,
    Recognised,
    Variant,
)
from tunefleet_formats.reading import flag, hidden_size, quantization_config, recognised, word

__all__ = ["FOUR_BIT_ENGINES", "FOUR_BIT_VARIANTS", "recognise_four_bit"]

_BLOCK, _BLOCK_OF_SCALES = 64, 256
_OUTPUTS_ARE_HIDDEN = ("o_proj", "down_proj", "out_proj", "dense", "w2")
"""Layers that lead back to the width of the model: their outputs are it, not their inputs."""

FOUR_BIT_VARIANTS = (
    # Four bits, an 8-bit scale per 64 weights, and a float32 scale per 256 of those.
    Variant(
        name="double",
        bits_per_weight=4 + 8 / _BLOCK + 32 / (_BLOCK * _BLOCK_OF_SCALES),
        group_size=_BLOCK,
    ),
    # Four bits and a float32 scale per 64 weights.
    Variant(name="single", bits_per_weight=4 + 32 / _BLOCK, group_size=_BLOCK),
)

FOUR_BIT_ENGINES = {
    "vllm": EngineSupport(
        device_kinds=("cpu", "cuda"),
        least_compute_capability="7.0",
        requires="vllm-bnb-plugin",
        source="vLLM 0.32.0: no `bitsandbytes` among its own methods (layers/quantization/__init__.py); "
        "docs/features/quantization/bnb.md",
    ),
    "sglang": EngineSupport(
        flags=("--load-format", "bitsandbytes"),
        device_kinds=("cuda",),
        least_compute_capability="7.0",
        requires="bitsandbytes",
        source="SGLang 0.5.23: srt/layers/quantization/bitsandbytes.py, and not among its methods for CPU",
    ),
    "embedded": EngineSupport(
        device_kinds=("cpu", "cuda"),
        requires="bitsandbytes",
        source="tried on a CPU with transformers 5.23.0: plugins/formats/tests/test_real_embedded.py",
        is_proven=True,
    ),
}


def recognise_four_bit(kind: str) -> Recognise:
    """Return the question whether a checkpoint is of `nf4` or `fp4`."""

    def recognise(checkpoint: Checkpoint) -> Recognised | None:
        config = quantization_config(checkpoint)
        if word(config, "quant_method") not in ("bitsandbytes", "bitsandbytes_4bit"):
            return None
        if not (flag(config, "load_in_4bit") or flag(config, "_load_in_4bit")):
            return None
        # fp4 is what the library takes if the config does not say.
        if (word(config, "bnb_4bit_quant_type") or "fp4") != kind:
            return None
        variant = FOUR_BIT_VARIANTS[0 if flag(config, "bnb_4bit_use_double_quant") else 1]
        return recognised(
            checkpoint,
            _weights(checkpoint, kind),
            nominal=variant.bits_per_weight,
            carrier="bitsandbytes",
            variant=variant.name,
        )

    return recognise


def _weights(checkpoint: Checkpoint, kind: str) -> dict[str, PackedWeight]:
    suffix = f".quant_state.bitsandbytes__{kind}"
    hidden = hidden_size(checkpoint)
    found: dict[str, PackedWeight] = {}
    for state in checkpoint.tensors:
        name = state.removesuffix(suffix)
        if name == state:
            continue
        dtype, stored = checkpoint.tensors.get(name, ("", ()))
        numbers = math.prod(stored) * {"U8": 2, "BF16": 4, "F16": 4, "F32": 8}.get(dtype, 0)
        parts = ("", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", suffix)
        present = tuple(f"{name}{part}" for part in parts if f"{name}{part}" in checkpoint.tensors)
        found[name] = PackedWeight(shape=_matrix(name, numbers, hidden), parts=present)
    return found


def _matrix(name: str, numbers: int, hidden: int) -> tuple[int, ...]:
    if not hidden or numbers % hidden:
        return (numbers,)
    module = name.removesuffix(".weight").rpartition(".")[2]
    other = numbers // hidden
    return (hidden, other) if module in _OUTPUTS_ARE_HIDDEN else (other, hidden)
