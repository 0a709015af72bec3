"""Load a base with mlx-lm: offline, safetensors only, no code from a model folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.catalog import linear_modules
from tunefleet_core.rendering import first_line, unusable_base
from tunefleet_mlx.devices import Hardware
from tunefleet_mlx.variants import GROUP_SIZE, QUANTIZED

__all__ = ["block_class", "load_base", "parameters_of"]


def load_base(
    base: BaseFacts, hardware: Hardware, *, quantization: str = "", shared: Any | None = None
) -> Any:
    """Load the weights of a base folder, frozen.

    Args:
        base: The base.
        hardware: Where to, and in which number type it computes.
        quantization: What to quantise linear layers to while loading, a name of `QUANTIZED`;
            empty: as they are stored.
        shared: The same base, loaded before: its arrays are taken, and no weights are read again.

    Raises:
        TunefleetError: BASE_INVALID naming what is wrong with the folder, or that mlx-lm does not
            know the class.
    """
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.utils import load_model

    if not any(Path(base.path).glob("*.safetensors")):
        raise unusable_base(base, "it has no safetensors weights")
    dtype = getattr(mx, hardware.dtype)
    try:
        model: Any = load_model(Path(base.path), lazy=True)[0]
        if shared is not None:
            model.update(shared.parameters())
        else:
            model.update(tree_map(lambda value: _in_type(value, dtype), model.parameters()))
        if quantization:
            _quantize(model, base, QUANTIZED[quantization])
        mx.eval(model.parameters())
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise unusable_base(base, f"mlx-lm cannot load it: {first_line(error)}") from error
    model.freeze()
    return model


def parameters_of(model: Any) -> dict[str, Any]:
    """Return every parameter of a model by its full name."""
    from mlx.utils import tree_flatten

    return dict(tree_flatten(model.parameters()))


def block_class(model: Any) -> Any:
    """Return a block of a model: what is computed again under gradient checkpointing."""
    return model.layers[0]


def _in_type(value: Any, dtype: Any) -> Any:
    import mlx.core as mx

    return value.astype(dtype) if mx.issubdtype(value.dtype, mx.floating) else value


def _quantize(model: Any, base: BaseFacts, bits: int) -> None:
    """Round the linear layers; embedding and head stay whole, as in other formats of training.

    Raises:
        ValueError: no matrix can be grouped.
    """
    import mlx.nn as nn

    linear = linear_modules(base)
    groups = {name for name, (_, inputs) in linear.items() if math.gcd(inputs, GROUP_SIZE) == GROUP_SIZE}

    def is_rounded(name: str, module: Any) -> bool:
        return isinstance(module, nn.Linear) and name in groups

    if not groups:
        raise ValueError(f"the rows of its matrices are no multiple of {GROUP_SIZE} weights")
    nn.quantize(model, group_size=GROUP_SIZE, bits=bits, class_predicate=is_rounded)
