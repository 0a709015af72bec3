"""Numbers of an adapter that was trained on a quantised base, also on the base in whole numbers.

That is how most engines serve it, and its answers there differ: rounding every weight moves
them as far as a light adapter does. Without these numbers nothing could be proven of such an
engine, so they are taken while the trainer's memory is free again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from tunefleet_core.backend import RunContext
from tunefleet_core.parity import NumbersRecord, TopLogprobs, TrainServeContract, judge_numbers

__all__ = ["ROOM", "Measure", "with_unquantized"]

ROOM = 1.25
"""Weights, and a quarter of them for loading and one short prompt."""

Measure: TypeAlias = Callable[
    [Sequence[tuple[int, ...]]], tuple[Sequence[TopLogprobs], Sequence[TopLogprobs]]
]
"""Loads the base in whole numbers and says what it answers to prompts without and with the adapter."""


def with_unquantized(
    context: RunContext, contract: TrainServeContract, measure: Measure | None, *, dtype: str
) -> TrainServeContract:
    """Return the contract with numbers of the unquantised base, if there is memory to load it.

    Args:
        context: The run; it is told what was found, or that there was no room.
        contract: The record so far.
        measure: Measures; None: there is no room to load the base.
        dtype: Number type that the base is measured in.
    """
    if measure is None:
        context.notice(
            "The base in whole numbers does not fit into memory, so the adapter was measured only on the "
            f"base quantised to {contract.precision.quantization}: an unquantised engine stays unverified.",
            hint="Train on a host with memory for the whole base to have it proven.",
        )
        return contract
    prompts = [record.prompt_token_ids for record in contract.numbers]
    found = tuple(
        NumbersRecord(prompt_token_ids=prompt, base=base, tuned=tuned)
        for prompt, base, tuned in zip(prompts, *measure(prompts), strict=True)
    )
    moved = judge_numbers(contract, [record.tuned.as_mapping() for record in found]).distance_to_tuned
    context.notice(
        f"Trained on a base quantised to {contract.precision.quantization}, the adapter answers {moved:.4f} "
        f"nats away from there on the base in {dtype}; both are recorded.",
        severity="info",
    )
    return replace(contract, unquantized=found)
