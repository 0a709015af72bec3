"""How a model folder is refused, and how its JSON files are read: bounded, never trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["base_invalid", "parse_object", "read_bounded", "read_object"]


def base_invalid(fact: str, *, hint: str, path: Path | str = "") -> TunefleetError:
    """Build the BASE_INVALID error for a model folder."""
    return TunefleetError(Reason.BASE_INVALID, fact, hint=hint, metadata={"path": str(path)})


def read_bounded(path: Path, *, limit_bytes: int) -> bytes:
    """Return the bytes of a file of a model folder, refusing more than `limit_bytes`."""
    try:
        with path.open("rb") as file:
            content = file.read(limit_bytes + 1)
    except OSError as error:
        raise base_invalid(
            f"'{path}' cannot be read: {error.strerror or error}.",
            hint="Check the folder's files and their permissions, or download the model again.",
            path=path,
        ) from error
    if len(content) > limit_bytes:
        raise base_invalid(
            f"'{path}' is larger than {limit_bytes // 1024**2} MiB, which no such file is.",
            hint="Download the model again.",
            path=path,
        )
    return content


def read_object(path: Path, *, limit_bytes: int = 16 * 1024 * 1024) -> dict[str, object]:
    """Return the JSON object that a file of a model folder holds."""
    return parse_object(read_bounded(path, limit_bytes=limit_bytes), path)


def parse_object(content: bytes, path: Path) -> dict[str, object]:
    """Return the JSON object that `content` spells; `path` is named where it does not."""
    try:
        value = json.loads(content.decode("utf-8-sig"))
        if b"\\ud" in content.lower():  # half a surrogate pair is no text and fits no message
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        reason = str(error).splitlines()[0]
        raise base_invalid(
            f"'{path}' is not JSON: {reason}.", hint="Download the model again.", path=path
        ) from error
    if not isinstance(value, dict):
        raise base_invalid(
            f"'{path}' does not hold a JSON object.", hint="Download the model again.", path=path
        )
    return cast("dict[str, object]", value)
