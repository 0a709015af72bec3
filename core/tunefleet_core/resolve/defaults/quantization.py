"""Whether the base is quantised while it is trained: only where it must be, or will be served so."""

from __future__ import annotations

from collections.abc import Callable

from tunefleet.job.v1.spec_pb2 import TrainSpec
from tunefleet_core.resolve.defaults.filling import Defaults
from tunefleet_core.spec import QUANTIZATIONS

__all__ = ["fill_quantization"]

_FIELD = "train.quantization"
_FORMAT = "nf4"
_MOST_SHARE = 0.85


def fill_quantization(
    defaults: Defaults,
    train: TrainSpec,
    *,
    trainable: tuple[str, ...],
    memory_bytes: int,
    peak_bytes: Callable[[], int],
) -> None:
    """Quantise the base of an adapter to NF4 if it would not fit otherwise, or is to be served at 4 bits.

    Args:
        defaults: Where the decision goes.
        train: The spec, filled in but for this.
        trainable: Formats that the backend trains adapters on.
        memory_bytes: Memory of the device; 0 if unknown.
        peak_bytes: Tells the planned peak of the spec as it stands.
    """
    if train.quantization or train.adapter.WhichOneof("adapter") is None:
        return
    served = train.intended_serving.precision
    if served in QUANTIZATIONS and served in trainable:
        defaults.fill(_FIELD, served, f"it will be served in {served}, so it is trained in {served}")
        return
    peak = peak_bytes() if memory_bytes else 0
    if peak <= _MOST_SHARE * memory_bytes or _FORMAT not in trainable:
        return
    planned = f"unquantised, the planned peak of {_gib(peak)}"
    defaults.fill(_FIELD, _FORMAT, f"{planned} is more than 85 % of the device's {_gib(memory_bytes)}")


def _gib(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"
