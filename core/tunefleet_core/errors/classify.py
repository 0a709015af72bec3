"""Class foreign exceptions once, at the edge where they are caught."""

from __future__ import annotations

import errno

from tunefleet_core.errors.error import Reason, TunefleetError

__all__ = ["from_exception"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = ("No space left on device", "database or disk is full", "os error 28")
_MEMORY_TEXTS = ("out of memory", "CUDA out of memory", "can't allocate memory", "Cannot allocate memory")
_MEMORY_NAME = "OutOfMemoryError"  # torch's own, which is not imported here


def from_exception(error: BaseException) -> TunefleetError:
    """Return the TunefleetError that an exception means.

    Exception groups are unwrapped to their first TunefleetError, else to their
    first member: a TaskGroup wraps whatever its children raise.
    """
    if isinstance(error, TunefleetError):
        return error
    if isinstance(error, BaseExceptionGroup):
        members: tuple[BaseException, ...] = error.exceptions  # pyright: ignore[reportUnknownVariableType]
        classed = [from_exception(member) for member in members]
        return next((item for item in classed if item.reason is not Reason.INTERNAL), classed[0])
    text = str(error)
    full = isinstance(error, OSError) and error.errno in _FULL
    if full or any(part in text for part in _FULL_TEXTS):
        path = str(error.filename) if isinstance(error, OSError) and error.filename else ""
        return TunefleetError(
            Reason.DISK_FULL,
            f"The disk is full{f' at {path}' if path else ''}; what was being written was removed.",
            hint="Free space on this disk, then retry; the last committed checkpoint is intact.",
            metadata={"path": path},
        )
    is_memory = isinstance(error, MemoryError) or type(error).__name__ == _MEMORY_NAME
    if is_memory or any(part in text for part in _MEMORY_TEXTS):
        return TunefleetError(
            Reason.OUT_OF_MEMORY,
            "The process ran out of memory.",
            hint="Halve train.optim.micro_batch_size, then train.max_length.",
        )
    return TunefleetError(
        Reason.INTERNAL,
        f"{type(error).__name__}: {text}" if text else type(error).__name__,
        hint="See the log; if it is no fault of yours, report it with the job's name.",
        metadata={"exception": type(error).__name__},
    )
