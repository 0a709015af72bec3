"""Read a secret string from a person or a pipe, without showing it."""

from __future__ import annotations

import sys

__all__ = ["pasted"]


def pasted(label: str) -> str:
    """Return what is pasted at a prompt that shows nothing, or all of standard input if that is a pipe."""
    if not sys.stdin.isatty():
        return sys.stdin.read()
    import getpass

    return getpass.getpass(f"{label} (nothing is shown): ")
