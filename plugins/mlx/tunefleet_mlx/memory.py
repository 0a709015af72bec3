"""The memory a run has used at most, and what it could still have."""

from __future__ import annotations

import resource
import sys

import psutil

__all__ = ["free_memory_bytes", "peak_memory_bytes"]


def peak_memory_bytes() -> int:
    """Return the most memory used so far: arrays on Metal, where they share it, else the process's."""
    import mlx.core as mx

    if mx.default_device() != mx.cpu:
        return int(mx.get_peak_memory())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


def free_memory_bytes() -> int:
    """Return what is left of the machine's memory and of the process's bound."""
    free = int(psutil.virtual_memory().available)
    bound, _ = resource.getrlimit(resource.RLIMIT_AS)
    if bound == resource.RLIM_INFINITY:
        return free
    return min(free, bound - int(psutil.Process().memory_info().vms))
