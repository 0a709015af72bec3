"""Columns of tokens, made and measured without a Python object of the library for every row."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy
import pyarrow
import pyarrow.compute
from datasets import Dataset

from tunefleet_core.rendering import RenderedRow

__all__ = ["lengths_of", "supervised_dataset"]


def supervised_dataset(rows: Sequence[RenderedRow]) -> Dataset:
    """Return `input_ids` and `labels` of rows, in the types that the library gives such lists itself."""
    table = pyarrow.table(
        {
            "input_ids": _column([row.input_ids for row in rows], numpy.int32),
            "labels": _column([row.labels() for row in rows], numpy.int64),
        }
    )
    # Its name in the library's cache, which is not used: else the library pickles the rows to make one.
    return Dataset(table, fingerprint="rendered-rows")


def lengths_of(dataset: Dataset, column: str) -> list[int]:
    """Return how many tokens each row of a column has."""
    lists = dataset.with_format("arrow", columns=[column])[:][column]
    return list(pyarrow.compute.list_value_length(lists).to_pylist())


def _column(lists: Sequence[Sequence[int]], kind: Any) -> Any:
    ends = numpy.cumsum([len(item) for item in lists], dtype=numpy.int64)
    offsets = numpy.concatenate([[0], ends])
    flat = numpy.fromiter(chain.from_iterable(lists), kind, int(offsets[-1]))
    if len(flat) > numpy.iinfo(numpy.int32).max:
        return pyarrow.LargeListArray.from_arrays(offsets, flat)
    return pyarrow.ListArray.from_arrays(offsets.astype(numpy.int32), flat)
