"""Hold weights that were rounded to a format to the same weights before.

Two comparisons, for two kinds of fault. The whole weights, read by the library that
writes the format, must answer as the tuned model did (`check_numbers`): else tensors were
mapped wrongly or the template's tokens are others. The rounded weights, read again by the
same library, may differ from the whole ones by what the format is known to cost, no more:
else they were damaged on the way. And the tuned model must still be told from its base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity.contract import (
    NumbersRecord,
    PrecisionRecord,
    TopLogprobs,
    TrainServeContract,
)
from tunefleet_core.parity.numbers import NumbersVerdict, check_numbers, judge_numbers

__all__ = ["check_quantized", "logprob_distance", "quantized_contract"]


def logprob_distance(
    contract: TrainServeContract, one: Sequence[TopLogprobs], other: Sequence[TopLogprobs]
) -> float:
    """Return the mean distance of two models on the reference prompts of a record, in nats.

    The distance is that of `judge_numbers`. Both lists are in the order of `contract.numbers`.
    """
    records = tuple(
        NumbersRecord(prompt_token_ids=record.prompt_token_ids, base=record.base, tuned=top)
        for record, top in zip(contract.numbers, other, strict=True)
    )
    judged = replace(contract, numbers=records, unquantized=())
    return judge_numbers(judged, [_mapping(top) for top in one]).distance_to_tuned


def check_quantized(
    contract: TrainServeContract,
    whole: Sequence[TopLogprobs],
    rounded: Sequence[TopLogprobs],
    *,
    form: str,
    allowed: float,
    dtype: str,
) -> NumbersVerdict:
    """Check an export in a format; the summary says what the format cost.

    Args:
        contract: The record of the model that was exported.
        whole: Numbers of the weights before, read by the library that writes the format.
        rounded: Numbers of the file that was written, read again.
        form: Name of the format and variant, for people.
        allowed: Nats that the format may cost.
        dtype: Number type in which the library computed `whole`.

    Raises:
        TunefleetError: NUMBERS_MISMATCH naming which of both went wrong.
    """
    try:
        check_numbers(contract, [_mapping(top) for top in whole], served_dtype=dtype)
    except TunefleetError as error:
        if error.reason is not Reason.NUMBERS_MISMATCH:
            raise
        raise _mismatch(
            f"Before it was rounded to {form}, the model did not answer as the tuned model did. "
            + error.message.replace("The engine's", "Its").replace("The engine", "It"),
            metadata=error.metadata,
        ) from error
    cost = logprob_distance(contract, rounded, whole)
    verdict = judge_numbers(contract, [_mapping(top) for top in rounded], served_quantization=form)
    if not cost <= allowed:
        raise _mismatch(
            f"The file in {form} answers {cost:.4f} nats away from the weights before; "
            f"{allowed:.2f} is what this format may cost.",
            metadata={"cost": f"{cost:.4f}", "allowed": f"{allowed:.4f}"},
        )
    if not verdict.accepted:
        raise _mismatch(
            verdict.summary.replace("The engine", f"The file in {form}"),
            metadata={"cost": f"{cost:.4f}", "allowed": f"{allowed:.4f}"},
        )
    told = "" if verdict.is_proof else " It can hardly be told from the base any more."
    summary = (
        f"In {form} the model answers {cost:.4f} nats away from the weights before ({allowed:.2f} allowed), "
        f"{verdict.distance_to_tuned:.4f} from the tuned model and {verdict.distance_to_base:.4f} from the "
        f"base.{told}"
    )
    return replace(verdict, summary=summary)


def quantized_contract(
    contract: TrainServeContract, rounded: Sequence[TopLogprobs], *, quantization: str, dtype: str
) -> TrainServeContract:
    """Return the record to keep with an export: whoever serves it must answer as the file did when written.

    Args:
        contract: The record of the model that was exported.
        rounded: Numbers of the file that was written, read again.
        quantization: Name of the format.
        dtype: Number type of what is computed with the weights.
    """
    records = tuple(
        NumbersRecord(prompt_token_ids=record.prompt_token_ids, base=record.base, tuned=top)
        for record, top in zip(contract.numbers, rounded, strict=True)
    )
    precision = PrecisionRecord(dtype=dtype, quantization=quantization)
    return replace(contract, numbers=records, unquantized=(), precision=precision)


def _mapping(top: TopLogprobs) -> Mapping[int, float]:
    return top.as_mapping()


def _mismatch(message: str, *, metadata: Mapping[str, str]) -> TunefleetError:
    return TunefleetError(
        Reason.NUMBERS_MISMATCH,
        message,
        hint="Nothing was kept. Export in a variant of more bits, or as it is with export.merge.",
        metadata=dict(metadata),
    )
