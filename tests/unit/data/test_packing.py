"""Rows that share a sequence: all of them, once, within the bound, and few sequences."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tunefleet_core.data import pack_rows, packed_sequences

LENGTHS = st.lists(st.integers(1, 64), max_size=60)


@given(lengths=LENGTHS, capacity=st.integers(1, 128))
def test_every_row_is_in_one_sequence_that_has_room_for_it(lengths: list[int], capacity: int) -> None:
    sequences = pack_rows(lengths, capacity)
    assert sorted(row for rows in sequences for row in rows) == list(range(len(lengths)))
    for rows in sequences:
        assert sum(lengths[row] for row in rows) <= capacity or len(rows) == 1


@given(lengths=LENGTHS, capacity=st.integers(64, 128))
def test_a_plan_counts_the_sequences_that_are_trained(lengths: list[int], capacity: int) -> None:
    assert packed_sequences(Counter(lengths), capacity) == len(pack_rows(lengths, capacity))


@given(lengths=LENGTHS, capacity=st.integers(64, 128))
def test_no_two_sequences_would_fit_into_one(lengths: list[int], capacity: int) -> None:
    filled = sorted(sum(lengths[row] for row in rows) for rows in pack_rows(lengths, capacity))
    assert len(filled) < 2 or filled[0] + filled[1] > capacity
    assert len(filled) <= 2 * math.ceil(sum(lengths) / capacity)


def test_rows_keep_their_order_as_far_as_they_can() -> None:
    assert pack_rows([5, 3, 4, 2], 8) == [[0, 1], [2, 3]]
    assert pack_rows([], 8) == []


def test_rows_that_are_too_long_are_not_counted() -> None:
    assert packed_sequences({9: 3, 4: 2}, 8) == 1
