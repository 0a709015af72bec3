"""The digest by which a data file is known: SHA-256 of its bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tunefleet_core.data.place import unreadable

__all__ = ["file_digest"]


def file_digest(path: Path | str) -> str:
    """Return the SHA-256 of a file as 64 hex digits.

    Raises:
        TunefleetError: DATA_INVALID if the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(Path(path), error) from error
