"""Pay for imports before work arrives. Nothing here makes a tensor or touches a device."""

from __future__ import annotations

import importlib

from tunefleet_trl import warmup

__all__ = ["import_all"]

_MODULES = (
    "tunefleet_deepspeed.training",
    "deepspeed.runtime.zero.stage3",
    "deepspeed.runtime.zero.stage_1_and_2",
)


def import_all() -> None:
    """Import DeepSpeed and what trl's runs need; then the garbage collector is kept off all of it."""
    for name in _MODULES:
        importlib.import_module(name)
    warmup.import_all()
