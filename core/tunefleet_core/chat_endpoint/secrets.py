"""Secrets of a trainer, named by jobs: the name travels, the value stays in the worker's environment.

Only variables with a prefix of their own can be named, so that no job can send other variables of
a trainer to an address of its choice.
"""

from __future__ import annotations

import os
import re

from tunefleet_core.errors import TunefleetError

__all__ = ["PREFIX", "is_secret_name", "secret_of"]

PREFIX = "TUNEFLEET_SECRET_"
"""What names of variables begin with that jobs may name the rest of."""

_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,62}")


def is_secret_name(name: str) -> bool:
    """Return whether a job may name a secret so; a key as it is given out is no such name."""
    return _NAME.fullmatch(name) is not None


def secret_of(name: str, *, field: str) -> str:
    """Return a secret by the name that a job gives it; empty for an empty name.

    Args:
        name: What follows the prefix.
        field: The field that names it.

    Raises:
        TunefleetError: FIELD_INVALID for a name that is none, or that this trainer does not have.
    """
    if not name:
        return ""
    if not is_secret_name(name):
        raise TunefleetError.field(
            field,
            "must be the name of a secret in capital letters, digits and underscores, never the key itself",
            hint=f"Start the trainer with {PREFIX}NAME=... in its environment and write NAME here.",
        )
    value = os.environ.get(PREFIX + name, "")
    if not value:
        raise TunefleetError.field(
            field,
            f"names the secret '{name}', which this trainer does not have",
            hint=f"Start the trainer with {PREFIX}{name}=... in its environment.",
        )
    return value
