"""Read every row of a file in a process of its own: gigabytes of JSON must not hold up the coordinator.

Run as a module it reads one file and prints one line of JSON: how many rows, or what is wrong.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import cast

from google.rpc import status_pb2

from tunefleet_core.data import count_rows
from tunefleet_core.errors import (
    Reason,
    TunefleetError,
    error_from_status,
    from_exception,
    status_from_error,
)

__all__ = ["RowReader"]

_AT_ONCE = 2
_LIMIT_SECONDS = 1800.0


class RowReader:
    """Counts rows, a few files at once."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def count(self, path: Path, shown_as: str) -> int:
        """Return how many rows a file has, once every one could be read.

        Args:
            path: The file.
            shown_as: What messages call it: its path is a digest, which says nothing to anybody.

        Raises:
            TunefleetError: DATA_INVALID naming line and field of the first wrong row; TIME_LIMIT.
        """
        async with self._places:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tunefleet_coordinator.row_reading",
                str(path),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                async with asyncio.timeout(_LIMIT_SECONDS):
                    output, _ = await process.communicate()
            except TimeoutError:
                raise TunefleetError(
                    Reason.TIME_LIMIT,
                    f"The rows of {shown_as} were not read within {_LIMIT_SECONDS:.0f} s.",
                    hint="Split the file, or try again when the machine is less busy.",
                    metadata={"source": shown_as},
                ) from None
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        return _rows(output, path, shown_as)


def _rows(output: bytes, path: Path, shown_as: str) -> int:
    try:
        answer = cast("dict[str, object]", json.loads(output))
    except ValueError:
        raise TunefleetError(
            Reason.INTERNAL, f"Reading the rows of {shown_as} ended without an answer."
        ) from None
    if "rows" in answer:
        return int(str(answer["rows"]))
    error = error_from_status(status_pb2.Status.FromString(base64.b64decode(str(answer["error"]))))
    raise TunefleetError(
        error.reason,
        _named(error.message, path, shown_as),
        hint=_named(error.hint, path, shown_as),
        metadata={key: _named(value, path, shown_as) for key, value in error.metadata.items()},
        violations=error.violations,
    )


def _named(text: str, path: Path, shown_as: str) -> str:
    return text.replace(str(path), shown_as).replace(path.name, shown_as)


def main() -> None:
    """Read the file that the command line names."""
    try:
        answer: dict[str, object] = {"rows": count_rows(sys.argv[1])}
    except Exception as error:  # whatever a file does to us is the caller's answer
        status = status_from_error(from_exception(error))
        answer = {"error": base64.b64encode(status.SerializeToString()).decode()}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
