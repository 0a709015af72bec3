"""An engine that answers as something else than the tuned model is refused, and named."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import (
    AdapterRecord,
    NumbersRecord,
    PrecisionRecord,
    TemplateRecord,
    TopLogprobs,
    TrainServeContract,
    check_numbers,
    judge_numbers,
    tolerance,
)

VOCABULARY = 200
PROMPTS = 8


def _top(logits: Sequence[float], count: int = 20) -> TopLogprobs:
    """Return the top tokens of a softmax over logits."""
    peak = max(logits)
    total = peak + math.log(sum(math.exp(value - peak) for value in logits))
    order = sorted(range(len(logits)), key=lambda token: -logits[token])[:count]
    return TopLogprobs(token_ids=tuple(order), logprobs=tuple(logits[token] - total for token in order))


def _logits(seed: int, spread: float) -> list[list[float]]:
    """Return random logits, one list per reference prompt."""
    source = random.Random(seed)
    return [[source.gauss(0.0, spread) for _ in range(VOCABULARY)] for _ in range(PROMPTS)]


def _shifted(base: list[list[float]], update: list[list[float]], scale: float = 1.0) -> list[list[float]]:
    """Return the logits of a base with an adapter at a scale."""
    return [
        [value + scale * move for value, move in zip(row, moves, strict=True)]
        for row, moves in zip(base, update, strict=True)
    ]


def _contract_of(numbers: Sequence[NumbersRecord], *, dtype: str = "float32") -> TrainServeContract:
    """Return a record with these numbers and nothing else of interest."""
    return TrainServeContract(
        base_digest="",
        tokenizer_digest="",
        template=TemplateRecord(text="", sha256="", stop_token_ids=(), frozen_time_seconds=0),
        adapter=AdapterRecord(rank=8, alpha=8, effective_scale=1.0, target_modules=()),
        precision=PrecisionRecord(dtype=dtype, quantization=""),
        tokens=(),
        numbers=tuple(numbers),
    )


def _recorded(
    base: list[list[float]], tuned: list[list[float]], *, dtype: str = "float32"
) -> TrainServeContract:
    """Return the record a trainer would write of these two models."""
    pairs = zip(base, tuned, strict=True)
    return _contract_of(
        [
            NumbersRecord(prompt_token_ids=(index,), base=_top(one), tuned=_top(other))
            for index, (one, other) in enumerate(pairs)
        ],
        dtype=dtype,
    )


def _answers(model: list[list[float]], *, noise: float = 0.0, count: int = 20) -> list[dict[int, float]]:
    """Return what an engine that serves these logits would measure, with rounding noise."""
    source = random.Random(0)
    noisy = [[value + source.gauss(0.0, noise) for value in row] for row in model]
    return [_top(row, count).as_mapping() for row in noisy]


BASE = _logits(seed=1, spread=2.0)
UPDATE = _logits(seed=2, spread=0.5)
TUNED = _shifted(BASE, UPDATE)


@pytest.mark.parametrize(("dtype", "noise"), [("float32", 0.005), ("bfloat16", 0.05)])
def test_the_tuned_model_is_accepted_with_the_noise_of_its_precision(dtype: str, noise: float) -> None:
    verdict = check_numbers(_recorded(BASE, TUNED, dtype=dtype), _answers(TUNED, noise=noise))
    assert verdict.accepted
    assert 0 < verdict.distance_to_tuned < tolerance(dtype)
    assert verdict.distance_to_base > 3 * verdict.distance_to_tuned


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "served", "looks_like"),
    [
        ("scale x4", _shifted(BASE, UPDATE, 4.0), r"scale about (3\.[89]|4\.[012])x"),
        ("scale x1/4", _shifted(BASE, UPDATE, 0.25), r"scale about 0\.[23]x"),
        ("scale x2", _shifted(BASE, UPDATE, 2.0), r"scale about 2\.0x"),
        ("another adapter", _shifted(BASE, _logits(seed=3, spread=0.5)), "another adapter, another base"),
        ("another base", _shifted(_logits(seed=4, spread=2.0), UPDATE), "another adapter, another base"),
        ("the base", BASE, "equal the base"),
    ],
)
def test_another_model_is_refused_and_named(
    dtype: str, name: str, served: list[list[float]], looks_like: str
) -> None:
    contract = _recorded(BASE, TUNED, dtype=dtype)
    with pytest.raises(TunefleetError, match=looks_like) as caught:
        check_numbers(contract, _answers(served, noise=0.002))
    assert caught.value.reason is Reason.NUMBERS_MISMATCH, name
    assert float(caught.value.metadata["distance_to_tuned"]) > 0


def test_an_adapter_that_does_nothing_is_refused_although_it_equals_its_record() -> None:
    with pytest.raises(TunefleetError, match="does nothing"):
        check_numbers(_recorded(BASE, BASE), _answers(BASE))


def test_a_weak_adapter_is_accepted_exactly_and_refused_when_noise_hides_it() -> None:
    weak = _shifted(BASE, UPDATE, 0.02)
    contract = _recorded(BASE, weak)
    assert judge_numbers(contract, _answers(weak)).accepted
    assert not judge_numbers(contract, _answers(BASE)).accepted, "within tolerance, but it is the base"
    hidden = judge_numbers(contract, _answers(weak, noise=0.01))
    assert not hidden.accepted
    assert "cannot be told from the base" in hidden.summary


def test_the_coarser_precision_decides_what_is_tolerated() -> None:
    noisy = _answers(TUNED, noise=0.06)
    assert not judge_numbers(_recorded(BASE, TUNED), noisy).accepted
    assert judge_numbers(_recorded(BASE, TUNED), noisy, served_dtype="bfloat16").accepted
    assert tolerance("float32", quantization="nf4") == tolerance("bfloat16")


WHOLE = _shifted(BASE, _logits(seed=5, spread=0.3))  # the base without the rounding of its quantisation


def _trained_on_nf4(*, measured_whole: bool = False) -> TrainServeContract:
    recorded = _recorded(BASE, TUNED)
    whole = _recorded(WHOLE, _shifted(WHOLE, UPDATE)).numbers if measured_whole else ()
    precision = PrecisionRecord(dtype="float32", quantization="nf4")
    return replace(recorded, precision=precision, unquantized=whole)


def test_an_unquantised_engine_is_held_to_what_was_measured_on_the_unquantised_base() -> None:
    contract = _trained_on_nf4(measured_whole=True)
    verdict = judge_numbers(contract, _answers(_shifted(WHOLE, UPDATE), noise=0.005))
    assert verdict.accepted
    assert verdict.is_proof
    assert "trained on a base quantised to nf4, served on one not quantised" in verdict.summary
    assert verdict.distance_to_tuned < tolerance("float32")
    for wrong in (WHOLE, _shifted(WHOLE, UPDATE, 0.25), _shifted(BASE, UPDATE)):
        assert not judge_numbers(contract, _answers(wrong, noise=0.005)).accepted
    same = judge_numbers(contract, _answers(TUNED, noise=0.005), served_quantization="nf4")
    assert same.accepted
    assert "not quantised" not in same.summary


def test_without_such_a_measurement_an_nf4_adapter_is_accepted_and_told_to_be_unproven() -> None:
    light = _shifted(WHOLE, UPDATE, 0.5)
    verdict = judge_numbers(_trained_on_nf4(), _answers(light, noise=0.3))
    assert verdict.accepted
    assert not verdict.is_proof
    assert "which is no proof of the adapter" in verdict.summary
    near = judge_numbers(_trained_on_nf4(), _answers(TUNED, noise=0.1))
    assert near.accepted
    assert near.is_proof


@pytest.mark.parametrize(
    ("served", "looks_like"),
    [
        (BASE, "neither|equal the base"),
        (_shifted(BASE, UPDATE, 0.25), r"scale about 0\.[23]x"),
        (_shifted(BASE, UPDATE, 4.0), r"scale about (3\.[89]|4\.[012])x"),
    ],
)
def test_another_quantisation_excuses_no_other_scale(served: list[list[float]], looks_like: str) -> None:
    verdict = judge_numbers(_trained_on_nf4(), _answers(served, noise=0.05))
    assert not verdict.accepted
    assert re.search(looks_like, verdict.summary)


def test_tokens_that_change_places_at_the_end_of_the_list_cost_nothing() -> None:
    contract = _recorded(BASE, TUNED)
    assert judge_numbers(contract, _answers(TUNED, count=15)).distance_to_tuned < 0.001
    longer = _answers(TUNED, count=21)
    assert judge_numbers(contract, longer).distance_to_tuned < 0.001


def test_a_token_far_above_the_other_sides_floor_counts() -> None:
    contract = _recorded(BASE, TUNED)
    spoiled = _answers(TUNED)
    for answer in spoiled:
        answer.pop(max(answer, key=lambda token: answer[token]))
    assert judge_numbers(contract, spoiled).distance_to_tuned > 0.05


def test_an_excluded_token_does_not_make_the_distance_infinite() -> None:
    spoiled = _answers(TUNED)
    spoiled[0][next(iter(spoiled[0]))] = -math.inf
    verdict = judge_numbers(_recorded(BASE, TUNED), spoiled)
    assert math.isfinite(verdict.distance_to_tuned)
    assert not verdict.accepted


@pytest.mark.parametrize(
    ("spoil", "fact"),
    [
        (lambda found: found[:-1], "7 of 8"),
        (lambda found: [{}, *found[1:]], "no log-probabilities for reference prompt 0"),
        (lambda found: [*found[:-1], {1: math.nan}], "not a number for reference prompt 7"),
    ],
)
def test_an_incomplete_answer_is_refused(spoil: object, fact: str) -> None:
    measured = spoil(_answers(TUNED))  # type: ignore[operator]
    with pytest.raises(TunefleetError, match=fact):
        check_numbers(_recorded(BASE, TUNED), measured)


def test_a_record_without_numbers_proves_nothing() -> None:
    with pytest.raises(TunefleetError, match="no reference numbers"):
        check_numbers(_recorded([], []), [])
