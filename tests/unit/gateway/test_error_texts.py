"""A fault and what to do about it are two sentences in one text, and rows are named by their file."""

from __future__ import annotations

import pytest

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_services.gateway.errors import as_sentences
from tunefleet_services.gateway.fine_tuning.files import _named  # pyright: ignore[reportPrivateUsage]  # one rule


@pytest.mark.parametrize(
    ("message", "hint", "text"),
    [
        ("epochs: got 0", "Correct it.", "epochs: got 0. Correct it."),
        ("There is none.", "See the list.", "There is none. See the list."),
        ("got 0", "", "got 0"),
        ("", "", ""),
    ],
)
def test_two_sentences(message: str, hint: str, text: str) -> None:
    assert as_sentences(message, hint) == text


def test_rows_are_named_by_the_file_they_came_in() -> None:
    wrong = TunefleetError(Reason.DATA_INVALID, "file-1a2b:3: messages: is missing.", hint="h")
    assert _named(wrong, "file-1a2b", "rows.jsonl").message == "rows.jsonl:3: messages: is missing."
    other = TunefleetError(Reason.DISK_FULL, "file-1a2b: no room.")
    assert _named(other, "file-1a2b", "rows.jsonl") is other
