"""Bases in the formats of bitsandbytes: quantised while they are loaded, or stored so.

- nf4: Dettmers et al. 2023, arXiv:2305.14314, with double quantisation
- fp4: the same layout with numbers spaced as four-bit floating point
- int8: Dettmers et al. 2022, arXiv:2208.07339; outliers are computed in 16 bits
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["CARRIER", "FORMATS", "keep_layout", "mend_eight_bit", "quantising_options"]

CARRIER = "bitsandbytes"
"""What such a base says of itself in config.json."""

FORMATS = ("nf4", "fp4", "int8")
"""What a base can be quantised to while it is loaded."""


def quantising_options(name: str, *, dtype: str) -> dict[str, Any]:
    """Return the options of `from_pretrained` that quantise while loading.

    Args:
        name: One of `FORMATS`.
        dtype: The number type that layers compute in, such as `bfloat16`.
    """
    import torch
    from transformers import BitsAndBytesConfig

    if name == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=name,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    return {"quantization_config": config}


def keep_layout(model: Any) -> None:
    """Never let 4-bit weights be packed anew for inference.

    On processors with AVX512-BF16 the library does that in place at the first evaluation.
    The packed form has no backward pass: from the first validation on, no gradient would
    flow through a layer, and DoRA would read the norm of garbage.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def mend_eight_bit(model: Any) -> None:
    """Let 8-bit layers do what adapters and families ask of them, where the library (0.50) does not.

    - Inputs of four dimensions, as those of DeepSeek's latent attention are: its product knows two
      and three, and takes the wrong one of a fourth.
    - DoRA on a CPU: reading the weights, PEFT moves them to where they are, which loses their scales.
    """
    from bitsandbytes.nn import Linear8bitLt

    for module in model.modules():
        if isinstance(module, Linear8bitLt):
            module.forward = _mended(module, module.forward)


def _mended(module: Any, forward: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def mended(x: Any) -> Any:
        weight = module.weight
        if weight.CB is not None and weight.SCB is None:
            weight.SCB = module.state.SCB
        return forward(x.flatten(0, -2)).unflatten(0, x.shape[:-1]) if x.dim() > 3 else forward(x)

    return mended
