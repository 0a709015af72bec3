"""Read and write folders of adapters, in PEFT's form and in MLX's. See `adapter_form`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_mlx.adapter_form import (
    AdapterShape,
    mlx_arrays,
    mlx_config,
    peft_arrays,
    peft_config,
    shape_of_mlx,
    shape_of_peft,
)

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "MLX_WEIGHTS",
    "mlx_to_peft",
    "peft_to_mlx",
    "read_peft",
    "save_peft",
]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MLX_WEIGHTS = "adapters.safetensors"
_FILE_MODE = 0o644


def save_peft(
    arrays: dict[str, Any], shape: AdapterShape, folder: Path, base: BaseFacts, *, rslora: bool = False
) -> None:
    """Write an adapter of mlx-lm as PEFT reads it, into an existing folder."""
    from safetensors.numpy import save_file

    save_file(peft_arrays(arrays), str(folder / ADAPTER_WEIGHTS), metadata={"format": "pt"})
    named, revision = (base.model, base.commit) if base.commit else (base.path, "")
    _write_config(folder, peft_config(shape, base=named, revision=revision, rslora=rslora))


def read_peft(folder: Path) -> tuple[AdapterShape, dict[str, Any]]:
    """Return what an adapter in PEFT's form is, and its arrays under mlx-lm's names.

    Raises:
        TunefleetError: BASE_INVALID for a folder that is no adapter, or none that mlx-lm can do.
    """
    import mlx.core as mx

    config = _read_config(folder, ADAPTER_WEIGHTS)
    arrays = dict(mx.load(str(folder / ADAPTER_WEIGHTS)))
    return shape_of_peft(config, arrays), mlx_arrays(arrays)


def peft_to_mlx(source: Path, target: Path, *, layers: int) -> None:
    """Write an adapter in PEFT's form as mlx-lm reads it, into an existing folder.

    Args:
        source: Folder with `adapter_config.json` and `adapter_model.safetensors`.
        target: Where to.
        layers: Number of blocks of the base.

    Raises:
        TunefleetError: BASE_INVALID naming what of it mlx-lm could not do faithfully.
    """
    import mlx.core as mx

    shape, arrays = read_peft(source)
    whole = {name: mx.contiguous(array) for name, array in arrays.items()}
    mx.save_safetensors(str(target / MLX_WEIGHTS), whole)
    (target / MLX_WEIGHTS).chmod(_FILE_MODE)
    _write_config(target, mlx_config(shape, layers=layers))


def mlx_to_peft(source: Path, target: Path, base: BaseFacts) -> None:
    """Write an adapter of mlx-lm as PEFT reads it, into an existing folder.

    Raises:
        TunefleetError: BASE_INVALID naming what of it PEFT could not do faithfully.
    """
    import mlx.core as mx

    config = _read_config(source, MLX_WEIGHTS)
    arrays = dict(mx.load(str(source / MLX_WEIGHTS)))
    save_peft(arrays, shape_of_mlx(config, arrays), target, base)


def _read_config(folder: Path, weights: str) -> dict[str, Any]:
    for name in (ADAPTER_CONFIG, weights):
        if not (folder / name).is_file():
            raise TunefleetError(
                Reason.BASE_INVALID,
                f"The adapter folder '{folder}' has no {name}.",
                hint="Fetch the adapter again: tunefleet models fetch NAME",
                metadata={"path": str(folder)},
            )
    return dict(json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")))


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    path = folder / ADAPTER_CONFIG
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if (folder / name).exists():
            (folder / name).chmod(_FILE_MODE)
