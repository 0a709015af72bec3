"""An export in a format is held to the weights before and to the tuned model, each with its own bound."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import (
    NumbersRecord,
    PrecisionRecord,
    TemplateRecord,
    TopLogprobs,
    TrainServeContract,
)
from tunefleet_core.parity.quantized import check_quantized, logprob_distance, quantized_contract

Logits = list[list[float]]


def _random(seed: int, spread: float) -> Logits:
    source = random.Random(seed)
    return [[source.gauss(0.0, spread) for _ in range(100)] for _ in range(6)]


def _moved(logits: Logits, seed: int, spread: float) -> Logits:
    noise = _random(seed, spread)
    return [
        [a + b for a, b in zip(one, other, strict=True)] for one, other in zip(logits, noise, strict=True)
    ]


def _tops(logits: Logits) -> list[TopLogprobs]:
    return [_top(row) for row in logits]


def _top(row: Sequence[float]) -> TopLogprobs:
    total = math.log(sum(math.exp(value) for value in row))
    best = sorted(range(len(row)), key=lambda token: -row[token])[:20]
    return TopLogprobs(token_ids=tuple(best), logprobs=tuple(row[token] - total for token in best))


BASE = _random(1, 1.5)
TUNED = _moved(BASE, 2, 1.0)


@pytest.fixture
def contract() -> TrainServeContract:
    pairs = zip(_tops(BASE), _tops(TUNED), strict=True)
    return TrainServeContract(
        base_digest="",
        tokenizer_digest="",
        template=TemplateRecord(text="", sha256="", stop_token_ids=(), frozen_time_seconds=0),
        adapter=None,
        precision=PrecisionRecord(dtype="float32", quantization=""),
        tokens=(),
        numbers=tuple(
            NumbersRecord(prompt_token_ids=(number,), base=base, tuned=tuned)
            for number, (base, tuned) in enumerate(pairs)
        ),
    )


def _check(contract: TrainServeContract, whole: Logits, rounded: Logits, *, allowed: float) -> str:
    return check_quantized(
        contract, _tops(whole), _tops(rounded), form="gguf/q4_k_m", allowed=allowed, dtype="float32"
    ).summary


def test_what_the_format_costs_is_told(contract: TrainServeContract) -> None:
    rounded = _moved(TUNED, 3, 0.1)
    cost = logprob_distance(contract, _tops(rounded), _tops(TUNED))
    assert 0.02 < cost < 0.2
    assert f"{cost:.4f} nats away from the weights before" in _check(contract, TUNED, rounded, allowed=0.5)


def test_a_wrong_conversion_is_not_excused_by_the_bound_of_the_format(contract: TrainServeContract) -> None:
    converted = _moved(TUNED, 4, 0.2)
    with pytest.raises(TunefleetError, match="Before it was rounded") as caught:
        _check(contract, converted, converted, allowed=5.0)
    assert caught.value.reason is Reason.NUMBERS_MISMATCH


def test_more_than_the_format_may_cost_is_refused(contract: TrainServeContract) -> None:
    with pytest.raises(TunefleetError, match="away from the weights before") as caught:
        _check(contract, TUNED, _moved(TUNED, 5, 0.6), allowed=0.1)
    assert caught.value.reason is Reason.NUMBERS_MISMATCH
    assert float(caught.value.metadata["cost"]) > 0.1


def test_numbers_that_are_none_are_refused(contract: TrainServeContract) -> None:
    broken = [TopLogprobs(token_ids=top.token_ids, logprobs=(math.nan,) * 20) for top in _tops(TUNED)]
    with pytest.raises(TunefleetError):
        check_quantized(contract, _tops(TUNED), broken, form="gguf/q2_k", allowed=9.0, dtype="float32")


def test_a_file_that_is_nearer_to_the_base_is_refused_whatever_it_may_cost(
    contract: TrainServeContract,
) -> None:
    with pytest.raises(TunefleetError, match="base"):
        _check(contract, TUNED, BASE, allowed=99.0)


def test_the_record_of_an_export_holds_the_numbers_of_its_file(contract: TrainServeContract) -> None:
    rounded = _tops(_moved(TUNED, 6, 0.1))
    kept = quantized_contract(contract, rounded, quantization="gguf", dtype="float16")
    assert [record.tuned for record in kept.numbers] == rounded
    assert [record.base for record in kept.numbers] == [record.base for record in contract.numbers]
    assert kept.precision == PrecisionRecord(dtype="float16", quantization="gguf")
