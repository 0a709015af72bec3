"""What of a model is trained: every weight, or an adapter as mlx-lm lays it out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.spec import effective_scale
from tunefleet_mlx.adapter_files import read_peft

__all__ = ["adapt", "is_full", "load_adapter", "put_adapter_on"]


def is_full(spec: ResolvedSpec) -> bool:
    """Return whether every weight is trained."""
    return not spec.spec.train.HasField("adapter")


def adapt(model: Any, spec: ResolvedSpec, *, seed: int) -> None:
    """Make of a frozen model what is trained of it: with a fresh adapter, or unfrozen.

    Raises:
        TunefleetError: BASE_INVALID for a target module that mlx-lm's model does not have.
    """
    import mlx.core as mx

    if is_full(spec):
        model.unfreeze()
        return
    lora = spec.spec.train.adapter.lora
    mx.random.seed(seed)
    put_adapter_on(
        model,
        list(spec.target_modules),
        rank=lora.rank,
        scale=effective_scale(lora),
        dropout=lora.dropout,
        dora=lora.dora,
    )


def load_adapter(model: Any, folder: Path) -> None:
    """Put an adapter in PEFT's form on a frozen model.

    Raises:
        TunefleetError: BASE_INVALID for a module that the model does not have, and what `read_peft` raises.
    """
    shape, arrays = read_peft(folder)
    put_adapter_on(model, list(shape.modules), rank=shape.rank, scale=shape.scale, dora=shape.dora)
    model.load_weights(list(arrays.items()), strict=False)


def put_adapter_on(
    model: Any, modules: list[str], *, rank: int, scale: float, dropout: float = 0.0, dora: bool = False
) -> None:
    """Put a fresh adapter on modules of a frozen model: A drawn, B zero.

    Raises:
        TunefleetError: BASE_INVALID for a module that is not there, or is no linear one.
    """
    import mlx.nn as nn
    from mlx_lm.tuner.utils import linear_to_lora_layers

    kinds = (nn.Linear, nn.QuantizedLinear)
    linear = {name for name, module in model.named_modules() if isinstance(module, kinds)}
    missing = sorted(set(modules) - linear)
    if missing:
        raise TunefleetError(
            Reason.BASE_INVALID,
            f"mlx-lm's model of this base has no linear module '{missing[0]}'.",
            hint="Name targets that it has in train.adapter.lora.targets, or choose another backend.",
            metadata={"module": missing[0], "modules": str(len(missing))},
        )
    parameters = {"rank": rank, "scale": scale, "dropout": dropout, "keys": set(modules)}
    linear_to_lora_layers(model, len(model.layers), parameters, use_dora=dora)
