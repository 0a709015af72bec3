"""Measure an adapter trained on a quantised base also on the base in whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import psutil

from tunefleet_core.backend import RunContext
from tunefleet_core.parity import TrainServeContract
from tunefleet_core.rendering.unquantized_record import ROOM, with_unquantized
from tunefleet_mlx.adaptation import load_adapter
from tunefleet_mlx.devices import Hardware
from tunefleet_mlx.loading import load_base
from tunefleet_mlx.reference_numbers import top_logprobs

__all__ = ["add_unquantized"]


def add_unquantized(
    context: RunContext, contract: TrainServeContract, adapter: Path, hardware: Hardware
) -> TrainServeContract:
    """Return the contract with numbers of the unquantised base, if there is memory to load it.

    Args:
        context: The run; it is told what was found, or that there was no room.
        contract: The record so far.
        adapter: Folder of the trained adapter.
        hardware: What the run computed on; its weights are freed.
    """
    facts = context.order.resolved_spec.base
    if psutil.virtual_memory().available < ROOM * facts.parameter_count * getattr(mx, hardware.dtype).size:
        return with_unquantized(context, contract, None, dtype="")

    def both(prompts: Sequence[tuple[int, ...]]) -> tuple[Any, Any]:
        model = load_base(facts, hardware)
        base = top_logprobs(model, prompts)
        load_adapter(model, adapter)
        return base, top_logprobs(model, prompts)

    return with_unquantized(context, contract, both, dtype=hardware.dtype)
