"""Measure an adapter trained on a quantised base also on the base in whole numbers.

That is how engines other than mlx-lm serve it, and its answers there differ: without these
numbers nothing could be proven of them. Taken when the trainer's memory is free again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import psutil

from tunefleet_core.backend import RunContext
from tunefleet_core.parity import NumbersRecord, TrainServeContract, judge_numbers
from tunefleet_mlx.adaptation import put_adapter_on
from tunefleet_mlx.adapter_files import read_peft
from tunefleet_mlx.devices import Hardware
from tunefleet_mlx.loading import load_base
from tunefleet_mlx.reference_numbers import top_logprobs

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
    need = _ROOM * facts.parameter_count * getattr(mx, hardware.dtype).size
    if psutil.virtual_memory().available < need:
        context.notice(
            "The base in whole numbers does not fit into memory, so the adapter was measured only on the "
            f"base quantised to {contract.precision.quantization}: an unquantised engine stays unverified.",
            hint="Train on a host with memory for the whole base to have it proven.",
        )
        return contract
    model = load_base(facts, hardware)
    prompts = [record.prompt_token_ids for record in contract.numbers]
    base = top_logprobs(model, prompts)
    shape, arrays = read_peft(adapter)
    put_adapter_on(model, list(shape.modules), rank=shape.rank, scale=shape.scale, dora=shape.dora)
    model.load_weights(list(arrays.items()), strict=False)
    found = tuple(
        NumbersRecord(prompt_token_ids=prompt, base=base_top, tuned=tuned_top)
        for prompt, base_top, tuned_top in zip(prompts, base, top_logprobs(model, prompts), strict=True)
    )
    moved = judge_numbers(contract, [record.tuned.as_mapping() for record in found]).distance_to_tuned
    context.notice(
        f"Trained on a base quantised to {contract.precision.quantization}, the adapter answers {moved:.4f} "
        f"nats away from there on the base in {hardware.dtype}; both are recorded.",
        severity="info",
    )
    return replace(contract, unquantized=found)
