"""The layouts that several formats share: compressed-tensors, and AutoRound's own names for them.

compressed-tensors carries formats rather than being one: its config says for each group of
layers how numbers are packed. Layers are stored as `X.weight_packed` with scales beside it,
or as `X.weight` in the small number type itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunefleet_core.catalog.format import Checkpoint, PackedWeight
from tunefleet_formats.reading import groups, modules, shape, word

__all__ = ["MIXED", "auto_round_packing", "carrier_format", "packed_nibbles", "scaled"]

MIXED = "mixed-precision"
"""What compressed-tensors says of groups that are packed differently."""

_AUTO_ROUND = ("auto-round", "auto_round", "intel/auto-round")
_AUTO_ROUND_TYPES = {"mx_fp": "mxfp4-pack-quantized", "nv_fp": "nvfp4-pack-quantized"}


def carrier_format(config: Mapping[str, object]) -> tuple[str, str]:
    """Return (carrier, how it packs numbers in its own words); two empty words if it is none."""
    method = word(config, "quant_method")
    if method in _AUTO_ROUND and "llm_compressor" in word(config, "packing_format"):
        return "auto-round", _AUTO_ROUND_TYPES.get(word(config, "data_type"), "")
    if method != "compressed-tensors":
        return "", ""
    named = {word(group, "format") for group in groups(config)} - {""}
    if len(named) > 1:
        return method, MIXED
    return method, next(iter(named), word(config, "format"))


def auto_round_packing(config: Mapping[str, object]) -> str:
    """Return `awq` or `gptq` if AutoRound wrote a checkpoint in the layout of that one, else nothing."""
    packing = word(config, "packing_format")
    if word(config, "quant_method") not in _AUTO_ROUND:
        return ""
    return next((name for name in ("awq", "gptq") if name in packing), "")


def packed_nibbles(
    checkpoint: Checkpoint, *, module_part: str, beside: Sequence[str]
) -> dict[str, PackedWeight]:
    """Return weights of which two lie in one byte along the inputs, with the parts beside them.

    Args:
        checkpoint: The checkpoint.
        module_part: What ends the name of the packed numbers, such as `.weight_packed`.
        beside: Ends of the names of their scales.
    """
    found: dict[str, PackedWeight] = {}
    for module in modules(checkpoint, module_part, dtypes=("U8",)):
        stored = shape(checkpoint, f"{module}{module_part}", 2)
        parts = _present(checkpoint, module, (module_part, *beside))
        found[f"{module}.weight"] = PackedWeight(shape=(stored[0], stored[1] * 2), parts=parts)
    return found


def scaled(
    checkpoint: Checkpoint, *, dtypes: tuple[str, ...], beside: Sequence[str]
) -> dict[str, PackedWeight]:
    """Return the weights that are stored in a small number type, each with the scales beside it."""
    found: dict[str, PackedWeight] = {}
    for module in modules(checkpoint, ".weight", dtypes=dtypes):
        parts = _present(checkpoint, module, (".weight", *beside))
        if len(parts) > 1:
            found[f"{module}.weight"] = PackedWeight(
                shape=tuple(checkpoint.tensors[f"{module}.weight"][1]), parts=parts
            )
    return found


def _present(checkpoint: Checkpoint, module: str, parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{module}{part}" for part in parts if f"{module}{part}" in checkpoint.tensors)
