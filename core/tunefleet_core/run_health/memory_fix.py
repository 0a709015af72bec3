"""The smallest change that may let a step fit into memory."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["MemoryUse", "out_of_memory", "smaller_micro_batch"]

_ASKED_FOR = re.compile(r"[Tt]ried to allocate ([0-9.]+) ?(bytes|[KMGT]iB)")
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """What a step that did not fit was made of.

    Attributes:
        micro_batch_size: Rows of a forward pass.
        batch_size: Rows of an optimiser step.
        longest: Tokens of the longest row.
        peak_bytes: Memory in use at its highest.
    """

    micro_batch_size: int
    batch_size: int
    longest: int
    peak_bytes: int


def smaller_micro_batch(micro: int, batch: int) -> int:
    """Return the largest micro batch of at most half that divides the batch, so that steps stay the same."""
    return max(rows for rows in range(1, micro // 2 + 1) if batch % rows == 0)


def out_of_memory(use: MemoryUse, error: BaseException, *, what: str) -> TunefleetError:
    """Return OUT_OF_MEMORY with the field to change and the value to give it.

    Args:
        use: What the step was made of.
        error: What the library raised; it may say how much it asked for.
        what: The step, such as `A step`.
    """
    micro, longest = use.micro_batch_size, use.longest
    asked = _ASKED_FOR.search(str(error))
    wanted = int(float(asked[1]) * _UNITS[asked[2]]) if asked else 0
    if micro > 1:
        field, was, value = "train.optim.micro_batch_size", micro, smaller_micro_batch(micro, use.batch_size)
        hint = f"Set {field} to {value} (it is {was}); the result stays the same."
    else:
        field, was, value = "train.max_length", longest, max(1, longest // 2)
        hint = f"Set {field} to {value}, or train on a device with more memory."
    more = f", and {_size(wanted)} more were asked for" if wanted else ""
    return TunefleetError(
        Reason.OUT_OF_MEMORY,
        f"{what} ({micro} of up to {longest} tokens) does not fit into memory: "
        f"{_size(use.peak_bytes)} were in use{more}.",
        hint=hint,
        metadata={
            "peak_memory_bytes": str(use.peak_bytes),
            "asked_bytes": str(wanted),
            "micro_batch_size": str(micro),
            "longest_row_tokens": str(longest),
            "field": field,
            "value": str(value),
        },
    )


def _size(count: int) -> str:
    for unit, limit in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count} bytes"
