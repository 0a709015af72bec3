"""NF4: four bits by the quantiles of a normal distribution, the format of QLoRA."""

from __future__ import annotations

from tunefleet_core.catalog.format import Format
from tunefleet_formats.bitsandbytes import FOUR_BIT_ENGINES, FOUR_BIT_VARIANTS, recognise_four_bit

__all__ = ["NF4"]

NF4 = Format(
    name="nf4",
    summary="Four bits spaced as a normal distribution is (bitsandbytes); QLoRA trains on it.",
    variants=FOUR_BIT_VARIANTS,
    recognise=recognise_four_bit("nf4"),
    engines=FOUR_BIT_ENGINES,
    made_by="Made by bitsandbytes while the weights are loaded: train.quantization: nf4.",
    source="Dettmers et al. 2023, QLoRA, arXiv:2305.14314",
    traps=(
        "On processors with AVX512-BF16 the first pass without gradients packs the weights anew in place: "
        "merging after that gives garbage, so a merge loads the base fresh.",
        "The library casts the adapter to bfloat16 but reads it back as float32: trained weights are kept in "
        "float32, or a resumed run is another run.",
        "Small matrices carry fixed tables of about 1.2 KB each, which no figure per weight shows.",
    ),
)
