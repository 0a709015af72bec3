"""Bases in the formats of bitsandbytes: quantised while they are loaded, or stored so.

- nf4: Dettmers et al. 2023, arXiv:2305.14314, with double quantisation
- fp4: the same layout with numbers spaced as four-bit floating point
- int8: Dettmers et al. 2022, arXiv:2208.07339; outliers are computed in 16 bits
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["CARRIER", "FORMATS", "keep_layout", "quantising_options", "take_any_shape"]

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


def take_any_shape(model: Any) -> None:
    """Let 8-bit layers take inputs of four dimensions, as those of DeepSeek's latent attention are.

    The library's product (bitsandbytes 0.50) knows two and three: of a fourth it takes the wrong one.
    """
    from bitsandbytes.nn import Linear8bitLt

    for module in model.modules():
        if isinstance(module, Linear8bitLt):
            module.forward = _of_rows(module.forward)


def _of_rows(forward: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def any_shape(x: Any) -> Any:
        return forward(x.flatten(0, -2)).unflatten(0, x.shape[:-1]) if x.dim() > 3 else forward(x)

    return any_shape
