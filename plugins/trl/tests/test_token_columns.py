"""Columns of tokens are those that the library would make of the same lists."""

from __future__ import annotations

from datasets import Dataset

from tunefleet_core.rendering import RenderedRow
from tunefleet_trl.token_columns import lengths_of, supervised_dataset

ROWS = [
    RenderedRow(input_ids=[5, 6, 7], mask=[0, 1, 1]),
    RenderedRow(input_ids=[200_000], mask=[1]),
    RenderedRow(input_ids=[8, 9], mask=[1, 0]),
]


def test_a_dataset_is_that_of_the_library() -> None:
    made = supervised_dataset(ROWS)
    usual = Dataset.from_dict(
        {"input_ids": [row.input_ids for row in ROWS], "labels": [row.labels() for row in ROWS]}
    )
    assert made.features == usual.features
    assert made[:] == usual[:]
    assert made[2] == {"input_ids": [8, 9], "labels": [8, -100]}


def test_lengths_are_those_of_the_rows_that_are_left_in_their_order() -> None:
    made = supervised_dataset(ROWS)
    assert lengths_of(made, "input_ids") == [3, 1, 2]
    assert lengths_of(made.select([2, 0]), "labels") == [2, 3]
