"""Files whose method is not known: the first row tells the form of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tunefleet_core.data.answers import read_completions, read_labelled, read_pairs, read_prompts
from tunefleet_core.data.forms import COMPLETIONS, LABELLED, MESSAGES, PAIRS, PROMPTS, TEXTS, Form, form_of
from tunefleet_core.data.lines import read_objects
from tunefleet_core.data.rows import read_rows
from tunefleet_core.data.texts import read_texts

__all__ = ["count_rows", "form_of_file", "supervised_form"]

_READERS: tuple[tuple[Form, Callable[[Path], Iterator[object]]], ...] = (
    (PAIRS, read_pairs),
    (LABELLED, read_labelled),
    (COMPLETIONS, read_completions),
    (PROMPTS, read_prompts),
    (TEXTS, read_texts),
)


def form_of_file(path: Path | str) -> Form:
    """Return the form of a file's first row; conversations if it looks like none.

    Raises:
        TunefleetError: DATA_INVALID for a missing or empty file, or a first line that is no object.
    """
    _, first = next(iter(read_objects(path, shape=MESSAGES.shape)))
    return form_of(first) or MESSAGES


def supervised_form(path: Path | str) -> Form:
    """Return which form of supervised training a file has.

    What looks like none of them counts as conversations, whose reader says what is wrong.

    Raises:
        TunefleetError: as `form_of_file`.
    """
    found = form_of_file(path)
    return found if found in (COMPLETIONS, TEXTS) else MESSAGES


def count_rows(path: Path | str) -> int:
    """Return how many rows a file has, once every one of them could be read.

    Raises:
        TunefleetError: DATA_INVALID naming line and field of the first wrong row.
    """
    source = Path(path)
    form = form_of_file(source)
    read = next((reader for known, reader in _READERS if known is form), read_rows)
    return sum(1 for _ in read(source))
