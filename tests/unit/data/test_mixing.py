"""Mixtures of sources: how many rows of each, the same ones for the same seed, and what is refused."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.data import mixed, taken
from tunefleet_core.spec.rules import find_violations

ROWS = list(range(20))


@given(
    rows=st.integers(0, 50),
    weight=st.floats(0.01, 5),
    repeats=st.integers(1, 4),
    cap=st.integers(0, 60),
    seed=st.integers(0, 9),
)
def test_as_many_rows_are_taken_as_the_plan_says(
    rows: int, weight: float, repeats: int, cap: int, seed: int
) -> None:
    chosen = mixed(list(range(rows)), seed=seed, weight=weight, repeats=repeats, cap=cap)
    assert len(chosen) == taken(rows, weight=weight, repeats=repeats, cap=cap)
    assert chosen == mixed(list(range(rows)), seed=seed, weight=weight, repeats=repeats, cap=cap)
    if chosen:
        times = Counter(chosen)
        assert max(times.values()) <= int(weight * repeats) + 1


def test_weights_repeats_and_caps() -> None:
    assert mixed(ROWS, seed=1) == ROWS
    assert Counter(mixed(ROWS, seed=1, repeats=3)) == dict.fromkeys(ROWS, 3)
    half = mixed(ROWS, seed=1, weight=0.5)
    assert len(half) == len(set(half)) == 10
    assert half != mixed(ROWS, seed=2, weight=0.5)
    capped = mixed(ROWS, seed=1, repeats=2, cap=7)
    assert len(capped) == 7
    assert mixed(ROWS, seed=1, cap=100) == ROWS


@pytest.mark.parametrize(
    ("name", "value"),
    [("weight", 0), ("weight", float("nan")), ("repeats", 0), ("repeats", 1001), ("cap", 0)],
)
def test_a_wrong_number_is_refused_by_field(name: str, value: float) -> None:
    spec = JobSpec(name="x")
    spec.train.base.model = "org/tiny"
    source = spec.train.data.train.add(source="/a.jsonl")
    setattr(source, name, value)
    assert [item.field for item in find_violations(spec)] == [f"train.data.train[0].{name}"]
