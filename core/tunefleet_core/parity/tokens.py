"""The token half of the contract: an engine must make the same ids of a conversation."""

from __future__ import annotations

from collections.abc import Sequence

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity.contract import TokensRecord, TrainServeContract

__all__ = ["check_tokens"]

_SHOWN_TOKENS = 6


def check_tokens(contract: TrainServeContract, served: Sequence[Sequence[int]]) -> None:
    """Hold an engine's prompt ids to those of training.

    Args:
        contract: The adapter's record.
        served: For each of `contract.tokens`, in order, the ids the engine makes of its
            messages with the generation prompt.

    Raises:
        TunefleetError: TEMPLATE_MISMATCH naming the first conversation that differs, the
            first differing position (from 0) and the ids there on both sides.
    """
    for index, record in enumerate(contract.tokens):
        if index >= len(served):
            raise _mismatch(index, record, "the engine made no ids of it", {})
        position = _first_difference(record.prompt_token_ids, served[index])
        if position is not None:
            trained = list(record.prompt_token_ids[position : position + _SHOWN_TOKENS])
            found = list(served[index][position : position + _SHOWN_TOKENS])
            raise _mismatch(
                index,
                record,
                f"from position {position} on it was trained as {_ids(trained)} "
                f"and is served as {_ids(found)}",
                {"position": str(position), "trained": str(trained), "served": str(found)},
            )
    if len(served) > len(contract.tokens):
        raise ValueError(f"{len(served)} prompts were served for {len(contract.tokens)} records")


def _first_difference(trained: Sequence[int], served: Sequence[int]) -> int | None:
    for position, (one, other) in enumerate(zip(trained, served, strict=False)):
        if one != other:
            return position
    return None if len(trained) == len(served) else min(len(trained), len(served))


def _ids(ids: Sequence[int]) -> str:
    return " ".join(str(item) for item in ids) if ids else "nothing"


def _mismatch(index: int, record: TokensRecord, fact: str, metadata: dict[str, str]) -> TunefleetError:
    last = str(record.messages[-1]["content"]).strip() if record.messages else ""
    name = last if len(last) <= 40 else last[:37] + "..."
    return TunefleetError(
        Reason.TEMPLATE_MISMATCH,
        f"Reference conversation {index} ({name!r}) has other token ids than in training: {fact}.",
        hint="Serve with the chat template and the tokenizer of the adapter's record, on the base it names.",
        metadata={"conversation": str(index), **metadata},
    )
