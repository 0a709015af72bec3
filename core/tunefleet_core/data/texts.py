"""Read rows of plain text, for training that goes on where pre-training stopped: no turns, no template."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunefleet_core.data.forms import TEXTS, require_form
from tunefleet_core.data.json_text import check_value
from tunefleet_core.data.lines import read_objects
from tunefleet_core.data.place import kind_of

__all__ = ["TextRow", "read_texts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRow:
    """A text and the line of the file it stands on, counted from 1."""

    line: int
    text: str


def read_texts(path: Path | str) -> Iterator[TextRow]:
    """Yield the rows of a JSONL file of texts, in order; other fields are left alone.

    Raises:
        TunefleetError: DATA_INVALID at the first wrong row, as `train.jsonl:17: text: ...`,
            and for a missing or empty file.
    """
    for place, value in read_objects(path, shape=TEXTS.shape):
        require_form(place, value, TEXTS)
        text = value["text"]
        if not isinstance(text, str):
            place.refuse("text", f"must be a text, got {kind_of(text)}.", hint=TEXTS.shape)
        if not text.strip():
            place.refuse("text", "is empty.", hint=f"Remove line {place.line}.")
        check_value(place, "text", text)
        yield TextRow(line=place.line, text=text)
