"""The variants of GGUF that this backend writes, and what each may cost.

A tolerance is the mean absolute difference, in nats, of the top log-probabilities of the
reference prompts between the file and the weights before. It is there to catch damage, not
to judge taste: a tensor read with the wrong type or in the wrong order moves answers by
more than a nat, rounding to this many bits moves them by less than this.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunefleet_core.errors import TunefleetError
from tunefleet_core.spec.nearest import did_you_mean

__all__ = ["USUAL_VARIANT", "VARIANTS", "Variant", "find_variant"]

USUAL_VARIANT = "q4_k_m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A way to store tensors.

    Attributes:
        name: As in `export.quantize.variant`.
        file_type: Name of llama.cpp's file type, after `LLAMA_FTYPE_`.
        bits_per_weight: Roughly, for the room it takes.
        tolerance: What it may cost, in nats.
    """

    name: str
    file_type: str
    bits_per_weight: float
    tolerance: float


VARIANTS = {
    name: Variant(name=name, file_type=file_type, bits_per_weight=bits, tolerance=tolerance)
    for name, file_type, bits, tolerance in (
        ("f32", "ALL_F32", 32.0, 0.01),
        ("f16", "MOSTLY_F16", 16.0, 0.06),
        ("bf16", "MOSTLY_BF16", 16.0, 0.12),
        ("q8_0", "MOSTLY_Q8_0", 8.5, 0.15),
        ("q6_k", "MOSTLY_Q6_K", 6.6, 0.25),
        ("q5_k_m", "MOSTLY_Q5_K_M", 5.7, 0.4),
        ("q5_k_s", "MOSTLY_Q5_K_S", 5.6, 0.4),
        ("q5_1", "MOSTLY_Q5_1", 6.0, 0.4),
        ("q5_0", "MOSTLY_Q5_0", 5.5, 0.5),
        ("q4_k_m", "MOSTLY_Q4_K_M", 4.9, 0.7),
        ("q4_k_s", "MOSTLY_Q4_K_S", 4.7, 0.7),
        ("q4_1", "MOSTLY_Q4_1", 5.0, 0.7),
        ("q4_0", "MOSTLY_Q4_0", 4.5, 0.8),
        ("q3_k_l", "MOSTLY_Q3_K_L", 4.3, 1.1),
        ("q3_k_m", "MOSTLY_Q3_K_M", 4.0, 1.2),
        ("q3_k_s", "MOSTLY_Q3_K_S", 3.7, 1.4),
        ("q2_k", "MOSTLY_Q2_K", 3.2, 2.0),
    )
}
"""By name, the most exact first."""


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
            f"'{name}' is no variant of GGUF that this backend writes{did_you_mean(name, list(VARIANTS))}",
            hint=f"It writes {', '.join(VARIANTS)}.",
        ) from None
