"""A line of a data file, and how what stands there is refused: by file, line and field."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tunefleet_core.errors import FieldViolation, Reason, TunefleetError

__all__ = ["Place", "did_you_mean", "kind_of", "shown", "unreadable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A line of a file; refuses what stands there."""

    path: Path
    line: int

    def refuse(self, field: str, description: str, *, hint: str = "") -> NoReturn:
        """Raise DATA_INVALID for this line; `field` may be empty for the whole line."""
        where = f"{self.path.name}:{self.line}"
        if description.endswith("?."):  # a question at the end needs no full stop
            description = description[:-1]
        raise TunefleetError(
            Reason.DATA_INVALID,
            f"{where}: {field}: {description}" if field else f"{where}: {description}",
            hint=hint or f"Correct line {self.line} of {self.path}.",
            metadata={"path": str(self.path), "line": str(self.line), "field": field},
            violations=(FieldViolation(field=field or "line", description=description),),
        )


def unreadable(path: Path, error: OSError) -> TunefleetError:
    """Return the refusal of a data file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        fact = f"No data file at '{path}'."
    elif isinstance(error, IsADirectoryError):
        fact = f"'{path}' is a folder, not a data file."
    else:
        fact = f"'{path}' cannot be read: {error.strerror or error}."
    return TunefleetError(
        Reason.DATA_INVALID,
        fact,
        hint="Correct the path, which is one of the fleet's machine; a file from elsewhere is sent there by: "
        "tunefleet datasets create NAME FILE, and named as datasets/NAME.",
        metadata={"path": str(path)},
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest known word, empty if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def shown(value: object) -> str:
    """Return a value as JSON, cut to what fits into a sentence."""
    try:
        text = json.dumps(value)
    except RecursionError:
        return "something nested too deeply to be shown"
    return text if len(text) <= 60 else text[:57] + "..."


def kind_of(value: object) -> str:
    """Return what a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return "a number"
    return {"dict": "an object", "list": "a list", "str": "a string"}[type(value).__name__]
