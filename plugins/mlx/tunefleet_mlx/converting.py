"""Write a model folder in MLX's format with mlx-lm. A process of its own: it can be ended at any time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.worker.aside import serve_aside
from tunefleet_mlx.devices import compute_on
from tunefleet_mlx.variants import GROUP_SIZE

__all__ = ["convert"]


def convert(source: Path, target: Path, *, bits: int) -> None:
    """Write `target`, a folder that does not exist yet: weights and config as mlx-lm has them.

    Raises:
        TunefleetError: BASE_INVALID for a model that mlx-lm cannot load.
    """
    import mlx_lm

    try:
        mlx_lm.convert(str(source), str(target), quantize=True, q_bits=bits, q_group_size=GROUP_SIZE)
    except ValueError as error:  # how the library says that it does not know a class or a weight
        raise TunefleetError(
            Reason.BASE_INVALID,
            f"mlx-lm cannot load this model: {str(error).splitlines()[0]}",
            hint="Export in another format: tunefleet catalog formats",
            metadata={"path": str(source)},
        ) from error


def _work(task: Mapping[str, Any]) -> Mapping[str, object]:
    compute_on(task["device_kind"])
    convert(Path(task["source"]), Path(task["target"]), bits=task["bits"])
    return {}


if __name__ == "__main__":
    serve_aside(_work)
