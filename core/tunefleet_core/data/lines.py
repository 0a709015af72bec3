"""The lines of a JSONL file, each one a JSON object, whatever rows they are.

Nothing is repaired or skipped in silence: training on other text than the file holds is worse
than not training. Only blank lines and a byte order mark are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import cast

from tunefleet_core.data.foreign import file_hint
from tunefleet_core.data.json_text import read_json
from tunefleet_core.data.place import Place, kind_of, unreadable
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["MAX_LINE_BYTES", "read_objects"]

MAX_LINE_BYTES = 8 * 1024 * 1024
"""Longest line that is read, in bytes; more is a broken file, not a conversation."""

_BOM = b"\xef\xbb\xbf"


def read_objects(path: Path | str, *, shape: str) -> Iterator[tuple[Place, dict[str, object]]]:
    """Yield the object on every line that is not blank, and where it stands.

    Args:
        path: The file; UTF-8, a byte order mark is accepted.
        shape: What a line should look like, one imperative sentence.

    Raises:
        TunefleetError: DATA_INVALID at the first line that is no object, and for a missing or
            empty file.
    """
    source = Path(path)
    try:
        file = source.open("rb")
    except OSError as error:
        raise unreadable(source, error) from error
    with file:
        count = 0
        for line, text in _lines(source, file, shape):
            place = Place(path=source, line=line)
            yield place, _object(place, text, shape)
            count += 1
    if not count:
        raise TunefleetError(
            Reason.DATA_INVALID,
            f"{source.name}: has no rows.",
            hint=shape,
            metadata={"path": str(source)},
        )


def _lines(path: Path, file: BufferedReader, shape: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of the lines that are not blank, each bounded in size."""
    offset, line = 0, 0
    while True:
        try:
            raw = file.readline(MAX_LINE_BYTES + 2)
        except OSError as error:
            raise unreadable(path, error) from error
        if not raw:
            return
        line += 1
        start, offset = offset, offset + len(raw)
        place = Place(path=path, line=line)
        if len(raw.rstrip(b"\r\n")) > MAX_LINE_BYTES:
            limit = f"{MAX_LINE_BYTES // 1024**2} MiB"
            hint = f"Shorten or remove line {line} of {path}; of many rows each has a line of its own."
            place.refuse("", f"is longer than {limit}.", hint=hint)
        if line == 1 and raw.startswith(_BOM):
            raw, start = raw[len(_BOM) :], len(_BOM)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            place.refuse(
                "",
                f"is not UTF-8: byte 0x{raw[error.start]:02x} at offset {start + error.start} of the file.",
                hint=f"Save {path} as UTF-8.",
            )
        if text.strip():
            yield line, text


def _object(place: Place, text: str, shape: str) -> dict[str, object]:
    hint = file_hint(text, shape)
    value = read_json(place, "", text, hint=hint)
    if not isinstance(value, dict):
        place.refuse("", f"must be an object, got {kind_of(value)}.", hint=hint)
    return cast("dict[str, object]", value)
