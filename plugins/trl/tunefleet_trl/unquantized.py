"""Measure an adapter trained on a quantised base also on the base in whole numbers.

That is how most engines serve it, and its answers there differ: rounding every weight moves
them as far as a light adapter does. Without these numbers nothing could be proven of such an
engine, so they are taken while the trainer's memory is free again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psutil
import torch

from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.backend import RunContext
from tunefleet_core.parity import NumbersRecord, TrainServeContract, judge_numbers
from tunefleet_trl.loading import Hardware, load_adapter, load_base
from tunefleet_trl.reference_numbers import measure

__all__ = ["add_unquantized"]

_ROOM = 1.25
"""Weights, and a quarter of them for loading and one short prompt."""


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
        context.notice(
            "The base in whole numbers does not fit into memory, so the adapter was measured only on the "
            f"base quantised to {contract.precision.quantization}: an unquantised engine stays unverified.",
            hint="Train on a host with memory for the whole base to have it proven.",
        )
        return contract
    model = load_adapter(load_base(facts, place), str(adapter))
    prompts = [record.prompt_token_ids for record in contract.numbers]
    with model.disable_adapter():
        base = measure(model, prompts)
    found = tuple(
        NumbersRecord(prompt_token_ids=prompt, base=base_top, tuned=tuned_top)
        for prompt, base_top, tuned_top in zip(prompts, base, measure(model, prompts), strict=True)
    )
    moved = judge_numbers(contract, [record.tuned.as_mapping() for record in found]).distance_to_tuned
    context.notice(
        f"Trained on a base quantised to {contract.precision.quantization}, the adapter answers {moved:.4f} "
        f"nats away from there on the base in {place.dtype}; both are recorded.",
        severity="info",
    )
    return replace(contract, unquantized=found)


def _place(facts: BaseFacts, hardware: Hardware) -> Hardware | None:
    """Return where the whole base fits: the run's own device, else the host; None: nowhere."""
    need = _ROOM * facts.parameter_count * getattr(torch, hardware.dtype).itemsize
    if hardware.kind == "cuda" and torch.cuda.mem_get_info()[0] >= need:
        return hardware
    if psutil.virtual_memory().available >= need:
        return Hardware(kind="cpu", dtype=hardware.dtype)
    return None
