"""The number half of the contract: an engine must answer as the tuned model did.

"Differs from the base" is not enough: an adapter at a quarter of its scale differs too.
"Close to tuned" is not enough: an adapter that hardly does anything is close to the base
as well. So an engine must be near the tuned model *and* clearly farther from the base.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity.contract import TOP_TOKENS, NumbersRecord, TrainServeContract

__all__ = ["NumbersVerdict", "check_numbers", "judge_numbers", "tolerance"]

_TOLERANCES = {"float32": 0.02, "float16": 0.06, "bfloat16": 0.12}
_MARGIN = 3.0
_MARGIN_REQUANTIZED = 1.5
"""Rounding the weights moves an answer as far as a light adapter does, a wrong scale farther."""
_LEAST_EFFECT = 1e-4
"""Nats. The record's two halves come from one process and one kernel: less is no effect at all."""
_LOWEST = -50.0
"""Nats. Engines write -inf or -9999 for a token they exclude; a mean must survive that."""
_LINEAR_FIT = 0.8
_FIT_TOKENS = 5
"""Tokens per prompt that all three lists must share before a line through them means something."""
_SCALE_OFF = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class NumbersVerdict:
    """What the comparison found; distances in nats, as defined by `judge_numbers`.

    `is_proof` is false where nothing speaks against the engine and nothing proves it either.
    """

    distance_to_tuned: float
    distance_to_base: float
    accepted: bool
    summary: str
    is_proof: bool = True


def tolerance(dtype: str, *, quantization: str = "") -> float:
    """Return the largest mean distance to the tuned model, in nats, that is still the same model.

    float32: two implementations differ by the order of their sums. Between transformers and
    engines with other kernels, batching and a key-value cache up to 0.013 nats were seen on
    single tokens; 0.02 for the mean leaves room and is far below what a wrong scale does.

    bfloat16: 8 significant bits. A logit between 16 and 32 is rounded to steps of 0.125, off
    by 0.03 on average, on both sides, and hidden states carry as much again: 0.06 is to be
    expected, 0.12 is twice that. float16 has 11 bits but overflows earlier and is served
    from bfloat16 weights: half of it. A quantised base gets no less than bfloat16.
    """
    allowed = _TOLERANCES.get(dtype, _TOLERANCES["bfloat16"])
    return max(allowed, _TOLERANCES["bfloat16"]) if quantization else allowed


def check_numbers(
    contract: TrainServeContract,
    measured: Sequence[Mapping[int, float]],
    *,
    served_dtype: str = "",
    served_quantization: str = "",
) -> NumbersVerdict:
    """Hold an engine's numbers to those of the tuned model; arguments as `judge_numbers`.

    Returns:
        The verdict, which is accepted.

    Raises:
        TunefleetError: NUMBERS_MISMATCH with a sentence that says what it looks like.
    """
    verdict = judge_numbers(
        contract, measured, served_dtype=served_dtype, served_quantization=served_quantization
    )
    if not verdict.accepted:
        raise TunefleetError(
            Reason.NUMBERS_MISMATCH,
            verdict.summary,
            hint="Fetch the adapter again and load it on the base of its record, or train it again.",
            metadata={
                "distance_to_tuned": f"{verdict.distance_to_tuned:.4f}",
                "distance_to_base": f"{verdict.distance_to_base:.4f}",
            },
        )
    return verdict


def judge_numbers(
    contract: TrainServeContract,
    measured: Sequence[Mapping[int, float]],
    *,
    served_dtype: str = "",
    served_quantization: str = "",
) -> NumbersVerdict:
    """Compare an engine's numbers with those of the tuned model and of the base.

    The distance of two lists of top tokens is the mean, over the union of their tokens, of
    the absolute difference of the log-probabilities. A token that one list lacks is at most
    as likely there as that list's last one, the floor; only what the other side has above
    that floor counts. So the distance is never more than with both full distributions at
    hand over the same tokens, and tokens that change places at the end of a list add next
    to nothing. The distance to a model is the mean over the reference prompts.

    Accepted is: at most `tolerance` from the tuned model, and less than a third as far
    from it as from the base. An engine whose base is not quantised, though it was in
    training, is compared with what was measured on such a base after training. Where that
    is missing, every weight is rounded differently and no bound on the distance would be
    honest: then only an engine that is farther from the tuned model than from the base by
    half is refused, and what is not nearer by half is accepted without being proven.

    Args:
        contract: The adapter's record.
        measured: For each of `contract.numbers`, in order, log-probability by token id as
            the engine returned them for the first new token.
        served_dtype: Number type of the engine, if it is another than in training; the
            coarser of both decides what is tolerated.
        served_quantization: Format the engine's base is quantised to; empty: none.
    """
    problem = _unusable(contract, measured)
    if problem:
        return NumbersVerdict(
            distance_to_tuned=math.inf, distance_to_base=math.inf, accepted=False, summary=problem
        )
    precision = contract.precision
    records, remark = _references(contract, served_quantization)
    is_comparable = not remark or records is not contract.numbers
    tuned = [record.tuned.as_mapping() for record in records]
    base = [record.base.as_mapping() for record in records]
    comparison = _Comparison(
        to_tuned=_distance(measured, tuned),
        to_base=_distance(measured, base),
        effect=_distance(tuned, base),
        allowed=max(
            tolerance(precision.dtype, quantization=served_quantization),
            tolerance(served_dtype or precision.dtype),
        ),
        is_comparable=is_comparable,
        remark=remark,
        scale=_scale(measured, tuned, base),
    )
    return NumbersVerdict(
        distance_to_tuned=comparison.to_tuned,
        distance_to_base=comparison.to_base,
        accepted=comparison.accepted,
        summary=_sentence(comparison),
        is_proof=comparison.is_proof,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Comparison:
    """Distances in nats; `scale` is the factor on the adapter that fits, None if none does.

    `remark` says how the base differs in its quantisation, empty: it does not. It is
    comparable all the same if the record holds numbers of a base like the engine's.
    """

    to_tuned: float
    to_base: float
    effect: float
    allowed: float
    is_comparable: bool
    remark: str
    scale: float | None

    @property
    def accepted(self) -> bool:
        if self.effect < _LEAST_EFFECT:
            return False
        if self.is_comparable:
            return self.to_tuned <= self.allowed and self.to_tuned < self.to_base / _MARGIN
        is_scaled = self.scale is not None and abs(self.scale - 1.0) > _SCALE_OFF
        return not is_scaled and self.to_tuned <= self.to_base * _MARGIN_REQUANTIZED

    @property
    def is_proof(self) -> bool:
        return self.is_comparable or self.to_tuned * _MARGIN_REQUANTIZED < self.to_base


def _references(
    contract: TrainServeContract, served_quantization: str
) -> tuple[tuple[NumbersRecord, ...], str]:
    """Return the numbers to compare with, and how training and serving differ in quantisation."""
    trained = contract.precision.quantization
    if served_quantization == trained:
        return contract.numbers, ""
    words = (f"quantised to {word}" if word else "not quantised" for word in (trained, served_quantization))
    remark = "trained on a base {}, served on one {}".format(*words)
    whole = {record.prompt_token_ids: record for record in contract.unquantized}
    if served_quantization or any(record.prompt_token_ids not in whole for record in contract.numbers):
        return contract.numbers, remark
    return tuple(whole[record.prompt_token_ids] for record in contract.numbers), remark


def _unusable(contract: TrainServeContract, measured: Sequence[Mapping[int, float]]) -> str:
    if not contract.numbers:
        return "The adapter's record holds no reference numbers, so nothing can be proven."
    if len(measured) != len(contract.numbers):
        return f"The engine answered {len(measured)} of {len(contract.numbers)} reference prompts."
    for index, answer in enumerate(measured):
        if not answer:
            return f"The engine returned no log-probabilities for reference prompt {index}."
        if any(math.isnan(value) for value in answer.values()):
            return f"The engine returned a log-probability that is not a number for reference prompt {index}."
    return ""


def _distance(ours: Sequence[Mapping[int, float]], theirs: Sequence[Mapping[int, float]]) -> float:
    pairs = zip(ours, theirs, strict=True)
    return sum(_prompt_distance(one, other) for one, other in pairs) / len(ours)


def _prompt_distance(one: Mapping[int, float], other: Mapping[int, float]) -> float:
    one_floor, other_floor = _floor(one), _floor(other)
    total = 0.0
    union = one.keys() | other.keys()
    for token in union:
        if token not in other:
            total += max(0.0, _bounded(one[token]) - other_floor)
        elif token not in one:
            total += max(0.0, _bounded(other[token]) - one_floor)
        else:
            total += abs(_bounded(one[token]) - _bounded(other[token]))
    return total / len(union)


def _floor(top: Mapping[int, float]) -> float:
    """Return the most that a token outside the list can have.

    An engine may add the token it drew to its top 20: that one is no bound for the others.
    """
    best_first = sorted((_bounded(value) for value in top.values()), reverse=True)
    return best_first[min(len(best_first), TOP_TOKENS) - 1]


def _bounded(logprob: float) -> float:
    return max(logprob, _LOWEST)


def _scale(
    measured: Sequence[Mapping[int, float]],
    tuned: Sequence[Mapping[int, float]],
    base: Sequence[Mapping[int, float]],
) -> float | None:
    """Return s where measured = base + s * (tuned - base) fits, by least squares; else None.

    Fitted on differences from each prompt's mean, which the normaliser of the softmax cannot
    bend: those are logits, and to first order logits are linear in the adapter's scale.
    """
    cross = steps = moves = 0.0
    shared = 0
    for answer, to, start in zip(measured, tuned, base, strict=True):
        known = sorted(answer.keys() & to.keys() & start.keys())
        shared += len(known)
        for step, move in zip(_changes(to, start, known), _changes(answer, start, known), strict=True):
            cross, steps, moves = cross + step * move, steps + step * step, moves + move * move
    if not steps or not moves or shared < _FIT_TOKENS * len(measured):
        return None
    return cross / steps if cross * cross / (steps * moves) >= _LINEAR_FIT else None


def _changes(after: Mapping[int, float], before: Mapping[int, float], tokens: Sequence[int]) -> list[float]:
    """Return how the log-probabilities changed, as differences from their mean change."""
    changes = [_bounded(after[token]) - _bounded(before[token]) for token in tokens]
    mean = sum(changes) / max(1, len(changes))
    return [change - mean for change in changes]


def _sentence(found: _Comparison) -> str:
    bound = f"{found.allowed:.2f} allowed" if found.is_comparable else "another quantisation"
    where = f"{found.to_tuned:.4f} nats from the tuned model ({bound}) and {found.to_base:.4f} from the base"
    if found.remark:
        where += f"; {found.remark}"
    if found.accepted and found.is_comparable:
        return f"The engine answers as the tuned model did: {where}."
    if found.accepted:
        proof = "" if found.is_proof else ", which is no proof of the adapter"
        return f"The engine answers no farther from the tuned model than from the base{proof}: {where}."
    if found.effect < _LEAST_EFFECT:
        return "In the record the tuned model equals the base: the adapter does nothing."
    if found.to_base <= found.allowed and found.to_base * _MARGIN < found.to_tuned:
        return (
            f"The engine's numbers equal the base: {where}. The base answers under the adapter's name, "
            "or the adapter's weights are zero."
        )
    if found.scale is not None and abs(found.scale - 1.0) > _SCALE_OFF:
        return (
            f"The engine's numbers look like the adapter at a scale about {found.scale:.1f}x "
            f"the trained one: {where}."
        )
    if found.is_comparable and found.to_tuned <= found.allowed:
        return (
            f"The adapter changes so little ({found.effect:.4f} nats) that at this precision it cannot be "
            f"told from the base: {where}."
        )
    return (
        f"The engine's numbers are neither the tuned model's nor the base's: {where}. It serves another "
        "adapter, another base, or the adapter at a scale far from the trained one."
    )
