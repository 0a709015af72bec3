"""Pay for imports before work arrives. Nothing here makes an array or touches a device."""

from __future__ import annotations

import gc
import importlib

__all__ = ["import_all"]

_MODULES = (
    "tunefleet_mlx.training",
    "tunefleet_core.rendering",
    "transformers.models.auto.tokenization_auto",
    "mlx_lm.models.llama",
    "mlx_lm.models.qwen3",
    "safetensors.numpy",
    "jinja2.ext",
)


def import_all() -> None:
    """Import everything, then keep the garbage collector off what will live for ever."""
    for name in _MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
