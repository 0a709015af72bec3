"""The formats this backend writes: one row per variant, with what its library needs and what it may cost.

Tolerances are nats, as `tunefleet_core.parity.quantized.check_quantized` measures them: the mean
distance of the log-probabilities of the reference prompts, rounded weights against those before.
They are set by models of two layers that have learned a task by heart, on which rounding costs
most: there is no redundancy. A lost scale or tensor costs several nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tunefleet_core.errors import TunefleetError

__all__ = ["FORMATS", "Recipe", "recipe_of"]

_INT4_GROUPS = (128, 64, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a variant of a format is made.

    Attributes:
        scheme: The library's name of number type and layout; empty: integers of `bits` in groups.
        bits: Of those integers.
        needs_calibration: Whether it looks at the activations of real rows.
        group_sizes: Numbers of inputs that may share a scale, the usual one first; empty: no groups.
        dtype: Number type to load the weights in; empty: their own.
        tolerance: Nats it may cost.
    """

    scheme: str = ""
    bits: int = 4
    needs_calibration: bool
    group_sizes: tuple[int, ...] = ()
    dtype: str = ""
    tolerance: float


FORMATS: Mapping[str, Mapping[str, Recipe]] = {
    # Lin et al. 2023, arXiv:2306.00978. Symmetric: with zero points newer libraries do not load it again.
    "awq": {"": Recipe(needs_calibration=True, group_sizes=_INT4_GROUPS, tolerance=0.6)},
    # Frantar et al. 2022, arXiv:2210.17323.
    "gptq": {
        "4bit": Recipe(needs_calibration=True, group_sizes=_INT4_GROUPS, tolerance=0.6),
        "8bit": Recipe(bits=8, needs_calibration=True, group_sizes=_INT4_GROUPS, tolerance=0.1),
    },
    # E4M3. Activations are rounded while serving: by token, but for `tensor`, which calibrates one scale.
    "fp8": {
        "channel": Recipe(scheme="FP8_DYNAMIC", needs_calibration=False, dtype="bfloat16", tolerance=0.2),
        "block": Recipe(
            scheme="FP8_BLOCK", needs_calibration=False, group_sizes=(128,), dtype="bfloat16", tolerance=0.2
        ),
        "tensor": Recipe(scheme="FP8", needs_calibration=True, dtype="bfloat16", tolerance=0.3),
    },
    # OCP Microscaling Formats 1.0: E2M1, 32 weights share an E8M0 scale. The library packs bfloat16 only.
    "mxfp4": {
        "": Recipe(
            scheme="MXFP4A16", needs_calibration=False, group_sizes=(32,), dtype="bfloat16", tolerance=0.8
        )
    },
    # E2M1, 16 weights share an E4M3 scale below one of the tensor; scales of activations are calibrated.
    "nvfp4": {
        "": Recipe(scheme="NVFP4", needs_calibration=True, group_sizes=(16,), dtype="bfloat16", tolerance=0.8)
    },
}
"""Format to variant to recipe; the usual variant first."""


def recipe_of(form: str, variant: str) -> Recipe:
    """Return the recipe of a format's variant; an empty variant is the usual one.

    Raises:
        TunefleetError: FIELD_INVALID naming what this backend writes.
    """
    variants = FORMATS.get(form)
    if variants is None:
        raise TunefleetError.field(
            "export.quantize.format",
            f"this backend does not write '{form}'",
            hint=f"It writes {', '.join(FORMATS)}.",
        )
    found = variants.get(variant) if variant else next(iter(variants.values()))
    if found is None:
        raise TunefleetError.field(
            "export.quantize.variant",
            f"'{variant}' is no variant of {form} that this backend writes",
            hint=f"It writes {', '.join(name for name in variants if name) or 'one form only'}.",
        )
    return found
