"""Adapters that begin with what quantising took from the base (LoftQ, Li et al. 2023, arXiv:2310.08659).

Each quantised layer holds Q in the place of W. One round of the paper's alternation: B and A begin
as the best factors of their rank for W - Q, so that Q + scale x B A is as near to W as they can
bring it. The base stays what the quantiser made of it, an ordinary NF4 or FP4 one. Further rounds
would quantise W - scale x B A instead, a base of this adapter's own.

The library's `replace_lora_weights_loftq` is the same for a scale of 1, and computes on a GPU alone.
Original weights are read a layer at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from safetensors import safe_open

from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.catalog.loaded_names import loaded_name
from tunefleet_core.rendering import unusable_base

__all__ = ["begin_with_residual", "residual_of"]

_ADAPTER = "default"
_WEIGHT = ".weight"
_AROUND = "base_model.model."


@torch.no_grad()
def begin_with_residual(model: Any, base: BaseFacts) -> None:
    """Set the factors of every quantised layer that has an adapter.

    Call it when they have their number type, before the first step and before resuming.

    Args:
        model: A PEFT model with a fresh adapter, on a base that was quantised while it was loaded.
        base: That base, stored in whole numbers.

    Raises:
        TunefleetError: BASE_INVALID if the files have no weight of a layer's name and shape.
    """
    with _originals(base) as original:
        for name, layer in model.named_modules():
            if isinstance(layer, LoraLayer) and hasattr(layer.get_base_layer().weight, "quant_state"):
                residual = residual_of(layer, original, name.removeprefix(_AROUND))
                a, b = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
                first, second = _factors(residual / layer.scaling[_ADAPTER], rank=a.shape[0])
                b.copy_(first)
                a.copy_(second)


def residual_of(layer: Any, original: Any, name: str) -> torch.Tensor:
    """Return what quantising took from a layer's weight, in float32: `original` reads weights by name."""
    stored = dequantize_module_weight(layer.get_base_layer()).to(torch.float32)
    return original(name, stored.shape).to(stored.device, torch.float32) - stored


def _factors(matrix: torch.Tensor, *, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return B and A of a rank whose product is nearest to a matrix, each with a root of its singular values.

    Singular directions of the shorter side are eigenvectors of a matrix of that side alone: for a
    layer of 2048 by 7168 a seventh of the time of a whole decomposition, 4 s of one core.
    """
    if matrix.shape[0] > matrix.shape[1]:
        a, b = _factors(matrix.T, rank=rank)
        return b.T, a.T
    values, vectors = torch.linalg.eigh(matrix @ matrix.T)  # ascending
    kept = vectors[:, -rank:].flip(-1)
    roots = values[-rank:].flip(-1).clamp_min(0).sqrt().sqrt()
    b = kept * roots
    a = (kept.T @ matrix) / roots.clamp_min(torch.finfo(roots.dtype).tiny).unsqueeze(-1)
    missing = rank - b.shape[1]  # a rank beyond the shorter side has nothing left to hold
    if missing > 0:
        b = torch.nn.functional.pad(b, (0, missing))
        a = torch.nn.functional.pad(a, (0, 0, 0, missing))
    return b, a


@contextmanager
def _originals(base: BaseFacts) -> Iterator[Any]:
    """Yield what reads a weight of the base's files by the name and shape of its loaded module."""
    with ExitStack() as opened:
        found: dict[str, tuple[Any, str]] = {}
        for path in sorted(Path(base.path).glob("*.safetensors")):
            file: Any = opened.enter_context(safe_open(path, framework="pt"))
            for key in file.keys():  # noqa: SIM118 - no mapping
                if key.endswith(_WEIGHT):
                    found[loaded_name(base.model_type, key.removesuffix(_WEIGHT))] = (file, key)

        def original(name: str, shape: torch.Size) -> torch.Tensor:
            file, key = found.get(name, (None, ""))
            weight = file.get_tensor(key) if file is not None else None
            if weight is None or weight.shape != shape:
                raise unusable_base(
                    base, f"init: loftq finds no weight of '{name}' with the shape {list(shape)} in its files"
                )
            return weight

        yield original
