"""The variants of MLX's format that this backend writes, and what each may cost.

A tolerance is the mean absolute difference, in nats, of the top log-probabilities of the
reference prompts between the written weights and those before. It is there to catch damage:
a matrix in the wrong place moves answers by more than rounding to this many bits does.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunefleet_core.errors import TunefleetError
from tunefleet_core.spec.nearest import did_you_mean

__all__ = ["GROUP_SIZE", "QUANTIZED", "USUAL_VARIANT", "VARIANTS", "Variant", "find_variant"]

USUAL_VARIANT = "4bit"
GROUP_SIZE = 64
"""Weights that share a scale and a bias; the library's usual one."""

QUANTIZED = {"mlx4": 4, "mlx8": 8}
"""What a base can be quantised to while it is loaded for training: name to bits of a weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A way to store matrices: `bits` per weight, and what that may cost in nats."""

    name: str
    bits: int
    tolerance: float


VARIANTS = {
    f"{bits}bit": Variant(name=f"{bits}bit", bits=bits, tolerance=tolerance)
    for bits, tolerance in ((8, 0.15), (6, 0.3), (5, 0.45), (4, 0.8), (3, 1.5))
}
"""By name, the most exact first. Two bits in affine groups leave too little of a model to prove."""


def find_variant(name: str) -> Variant:
    """Return a variant by name, empty: the usual one.

    Raises:
        TunefleetError: FIELD_INVALID with the nearest name.
    """
    try:
        return VARIANTS[name or USUAL_VARIANT]
    except KeyError:
        raise TunefleetError.field(
            "export.quantize.variant",
            f"'{name}' is no variant of MLX that this backend writes{did_you_mean(name, list(VARIANTS))}",
            hint=f"It writes {', '.join(VARIANTS)}.",
        ) from None
