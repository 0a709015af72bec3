"""The exit codes that scripts may rely on."""

from __future__ import annotations

__all__ = ["FAILED", "INTERRUPTED", "NOT_FOUND", "OK", "UNAVAILABLE", "USAGE", "exit_code"]

OK = 0
FAILED = 1
"""Something went wrong, or a job that was followed did not succeed."""
USAGE = 2
NOT_FOUND = 3
UNAVAILABLE = 4
"""The coordinator or a needed service does not answer."""
INTERRUPTED = 130


def exit_code(canonical: str) -> int:
    """Return the exit code of a canonical code such as `NOT_FOUND`."""
    return {"NOT_FOUND": NOT_FOUND, "UNAVAILABLE": UNAVAILABLE}.get(canonical, FAILED)
