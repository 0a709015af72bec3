"""JSON read more strictly than the standard library does: no duplicate keys, no NaN, nothing unbounded.

What a row nests, the arguments of a call and the schema of a tool, is rendered by templates
and written again as JSON, by libraries that recurse; so its depth has a bound.
"""

from __future__ import annotations

import json
import math
from typing import NoReturn, cast

from tunefleet_core.data.place import Place, kind_of

__all__ = ["check_text", "check_value", "read_json"]

MAX_DEPTH = 32
"""Deepest nesting inside a field; no schema and no call of a real tool comes near."""


def read_json(place: Place, field: str, text: str, *, hint: str = "") -> object:
    """Return the value that a text spells.

    Raises:
        TunefleetError: DATA_INVALID naming line and field.
    """
    text = text.rstrip()  # the end of a line is none of a text that was cut off
    try:
        return cast("object", json.loads(text, object_pairs_hook=_unique_pairs, parse_constant=_no_constant))
    except json.JSONDecodeError as error:
        if text and error.pos >= len(text):
            place.refuse(field, f"is not JSON: it ends at column {error.colno - 1}, unfinished.", hint=hint)
        place.refuse(field, f"is not JSON: {error.msg} at column {error.colno}.", hint=hint)
    except _DuplicateKeyError as error:
        inner = f"{field}.{error.key}" if field else error.key
        place.refuse(inner, "is given twice in one object.")
    except RecursionError:
        place.refuse(field, "is nested too deeply.", hint=hint)
    except ValueError as error:  # NaN and friends, or a number of thousands of digits
        said = str(error).splitlines()[0]
        if "digits" in said:
            place.refuse(field, "holds a whole number of thousands of digits.", hint="Write it as text.")
        place.refuse(field, f"is not JSON: {said}.", hint=hint)


def check_value(place: Place, field: str, value: object) -> None:
    """Refuse what cannot be written as JSON in UTF-8 again, or is nested too deeply.

    Raises:
        TunefleetError: DATA_INVALID naming line and field.
    """
    waiting: list[tuple[str, object, int]] = [(field, value, 0)]
    while waiting:
        name, item, depth = waiting.pop()
        if depth > MAX_DEPTH:
            place.refuse(field, f"is nested more than {MAX_DEPTH} levels deep.")
        if isinstance(item, str):
            check_text(place, name, item)
        elif isinstance(item, float) and not math.isfinite(item):
            place.refuse(name, "is too large a number.")
        elif isinstance(item, list):
            inner = enumerate(cast("list[object]", item))
            waiting.extend((f"{name}[{index}]", one, depth + 1) for index, one in inner)
        elif isinstance(item, dict):
            for key, one in cast("dict[str, object]", item).items():
                check_text(place, name, key)
                waiting.append((f"{name}.{key}", one, depth + 1))


def check_text(place: Place, field: str, text: object) -> str:
    """Return a text that can be written as UTF-8.

    Raises:
        TunefleetError: DATA_INVALID naming line and field.
    """
    if not isinstance(text, str):
        place.refuse(field, f"must be a string, got {kind_of(text)}.")
    # JSON can spell half a surrogate pair; no tokenizer and no UTF-8 encoder takes it.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = ord(text[error.start])
        place.refuse(field, f"holds half a surrogate pair, \\u{half:04x}, at character {error.start}.")
    return text


class _DuplicateKeyError(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _unique_pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKeyError(key)
            seen.add(key)
    return value


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON value")
