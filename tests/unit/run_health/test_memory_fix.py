from __future__ import annotations

import pytest

from tunefleet_core.errors import Reason, from_exception
from tunefleet_core.run_health import MemoryUse, out_of_memory, smaller_micro_batch


@pytest.mark.parametrize(
    ("micro", "batch", "smaller"), [(4, 16, 2), (2, 16, 1), (6, 12, 3), (8, 24, 4), (5, 15, 1), (3, 3, 1)]
)
def test_the_next_micro_batch_divides_the_batch(micro: int, batch: int, smaller: int) -> None:
    assert smaller_micro_batch(micro, batch) == smaller


def test_the_fix_names_field_and_value() -> None:
    use = MemoryUse(micro_batch_size=4, batch_size=16, longest=2048, peak_bytes=3 << 30)
    error = out_of_memory(use, MemoryError("Tried to allocate 1.50 GiB"), what="A step")
    assert error.reason is Reason.OUT_OF_MEMORY
    assert error.hint == "Set train.optim.micro_batch_size to 2 (it is 4); the result stays the same."
    assert "3.0 GiB were in use, and 1.5 GiB more were asked for" in error.message
    assert (error.metadata["field"], error.metadata["value"]) == ("train.optim.micro_batch_size", "2")


def test_one_row_that_does_not_fit_is_too_long() -> None:
    use = MemoryUse(micro_batch_size=1, batch_size=16, longest=2048, peak_bytes=0)
    error = out_of_memory(use, MemoryError(), what="A step")
    assert (error.metadata["field"], error.metadata["value"]) == ("train.max_length", "1024")


def test_an_exception_is_known_by_its_name_where_its_words_differ() -> None:
    class OutOfMemoryError(RuntimeError):
        """Named as torch's own, whose text depends on the device."""

    assert from_exception(OutOfMemoryError("HIP could not reserve")).reason is Reason.OUT_OF_MEMORY
