"""The digest by which a data file is known: SHA-256 of its bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tunefleet_core.errors import Reason, TunefleetError

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
        raise TunefleetError(
            Reason.DATA_INVALID,
            f"{path}: cannot be read: {error.strerror or error}.",
            hint="Check the path and that the file can be read on the host that runs the job.",
            metadata={"path": str(path)},
        ) from error
