"""The optimiser: AdamW, or one that keeps less where it would not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tunefleet.job.v1.spec_pb2 import TrainSpec
from tunefleet_core.resolve.defaults.filling import Defaults

__all__ = ["fill_optimizer"]

_FIELD = "train.optim.optimizer"
_USUAL, _SMALL = "adamw", "paged_adamw_8bit"
_MOST_SHARE = 0.85


def fill_optimizer(
    defaults: Defaults,
    train: TrainSpec,
    *,
    taken: Sequence[str] = (),
    memory_bytes: int = 0,
    peak_bytes: Callable[[], int] = lambda: 0,
) -> None:
    """Take AdamW, or for an adapter that would not fit so, one of 8 bits that moves to the host.

    Args:
        defaults: Where the decision goes.
        train: The spec, filled in but for this.
        taken: Optimisers that the backend takes beside AdamW.
        memory_bytes: Memory of the device; 0 if unknown.
        peak_bytes: Tells the planned peak of the spec as it stands, with AdamW.
    """
    if train.optim.optimizer:
        return
    is_adapter = train.HasField("adapter")
    peak = peak_bytes() if memory_bytes and is_adapter and _SMALL in taken else 0
    if peak > _MOST_SHARE * memory_bytes:
        share = peak / memory_bytes
        defaults.fill(_FIELD, _SMALL, f"with adamw the planned peak is {share:.0%} of the device's memory")
    else:
        why = "fused where the device has it" + ("; the state of an adapter is small" if is_adapter else "")
        defaults.fill(_FIELD, _USUAL, why)
