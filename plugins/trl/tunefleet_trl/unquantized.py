"""Measure an adapter trained on a quantised base also on the base in whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.backend import RunContext
from tunefleet_core.parity import TrainServeContract
from tunefleet_core.rendering.unquantized_record import ROOM, with_unquantized
from tunefleet_trl.loading import Hardware, load_adapter, load_base
from tunefleet_trl.reference_numbers import measure

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
    place = _place(facts, hardware)
    if place is None:
        return with_unquantized(context, contract, None, dtype="")

    def both(prompts: Sequence[tuple[int, ...]]) -> tuple[Any, Any]:
        model = load_adapter(load_base(facts, place), str(adapter))
        with model.disable_adapter():
            base = measure(model, prompts)
        return base, measure(model, prompts)

    return with_unquantized(context, contract, both, dtype=place.dtype)


def _place(facts: BaseFacts, hardware: Hardware) -> Hardware | None:
    """Return where the whole base fits: the run's own device, else the host; None: nowhere."""
    need = ROOM * facts.parameter_count * getattr(torch, hardware.dtype).itemsize
    if hardware.kind == "cuda" and torch.cuda.mem_get_info()[0] >= need:
        return hardware
    if psutil.virtual_memory().available >= need:
        return Hardware(kind="cpu", dtype=hardware.dtype)
    return None
