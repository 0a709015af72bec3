"""The memory a run has used at most, and what it could still have."""

from __future__ import annotations

import resource
import sys

import psutil
import torch

__all__ = ["free_memory_bytes", "peak_memory_bytes"]


def peak_memory_bytes() -> int:
    """Return the most memory used so far: of the GPU if the run has one, else of the process."""
    if _has_gpu():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


def free_memory_bytes() -> int:
    """Return what is left: of the GPU if the run has one, else of the machine and the process's bound."""
    if _has_gpu():
        return int(torch.cuda.mem_get_info()[0])
    free = int(psutil.virtual_memory().available)
    bound, _ = resource.getrlimit(resource.RLIMIT_AS)
    if bound == resource.RLIM_INFINITY:
        return free
    return min(free, bound - int(psutil.Process().memory_info().vms))


def _has_gpu() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()
