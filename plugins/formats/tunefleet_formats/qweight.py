"""The layout that GPTQ and AWQ share: packed `qweight`, packed `qzeros`, `scales`, by group."""

from __future__ import annotations

from collections.abc import Mapping

from tunefleet_core.catalog.format import Checkpoint, PackedWeight
from tunefleet_formats.reading import modules, shape

__all__ = ["group_bits", "packed_in_words"]

_PARTS = (".qweight", ".qzeros", ".scales", ".g_idx")
_WORD_BITS = 32


def group_bits(bits: int, group_size: int, *, has_zero_point: bool = True) -> float:
    """Return bits per weight: the number, and per group a 16-bit scale and a zero point as wide."""
    return bits + (16 + (bits if has_zero_point else 0)) / group_size


def packed_in_words(checkpoint: Checkpoint, *, bits: int, along_inputs: bool) -> Mapping[str, PackedWeight]:
    """Return the weights that are packed into 32-bit words.

    Args:
        checkpoint: The checkpoint.
        bits: Bits of one number.
        along_inputs: Whether a word holds neighbours along the inputs (GPTQ) or the outputs
            (AWQ); the stored matrix has inputs first in both.
    """
    found: dict[str, PackedWeight] = {}
    for module in modules(checkpoint, ".qweight", dtypes=("I32", "U32")):
        rows, columns = shape(checkpoint, f"{module}.qweight", 2)
        inputs = rows * _WORD_BITS // bits if along_inputs else rows
        outputs = columns if along_inputs else columns * _WORD_BITS // bits
        parts = tuple(f"{module}{part}" for part in _PARTS if f"{module}{part}" in checkpoint.tensors)
        found[f"{module}.weight"] = PackedWeight(shape=(outputs, inputs), parts=parts)
    return found
