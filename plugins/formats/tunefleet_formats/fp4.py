"""FP4: four bits as a tiny floating point number, as bitsandbytes makes them."""

from __future__ import annotations

from tunefleet_core.catalog.format import Format
from tunefleet_formats.bitsandbytes import FOUR_BIT_ENGINES, FOUR_BIT_VARIANTS, recognise_four_bit

__all__ = ["FP4"]

FP4 = Format(
    name="fp4",
    summary="Four bits as floating point numbers (bitsandbytes); coarser than nf4 for normal weights.",
    variants=FOUR_BIT_VARIANTS,
    recognise=recognise_four_bit("fp4"),
    engines=FOUR_BIT_ENGINES,
    made_by="Made by bitsandbytes while the weights are loaded: train.quantization: fp4.",
    source="Dettmers et al. 2023, QLoRA, arXiv:2305.14314, section 3 and table 2",
    traps=(
        "It is not the FP4 of MXFP4 and NVFP4: no engine takes one for the other.",
        "A config that does not say bnb_4bit_quant_type means fp4, not nf4.",
    ),
)
