"""Resource names: `projects/{project}/jobs/{job}` and its like."""

from __future__ import annotations

import random
import re
import secrets
import time
from dataclasses import dataclass

from tunefleet_core.errors import TunefleetError

__all__ = ["ResourceName", "check_id", "fresh_id", "fresh_uid", "parse_name", "parse_parent"]

_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"  # without letters that are read as one another
_MAX_ID = 63
_RANDOM = random.Random()  # seeded by the system: a uid is no secret, and asking the system takes longer


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceName:
    """A name that was parsed."""

    project: str
    collection: str
    id: str

    def __str__(self) -> str:
        return f"projects/{self.project}/{self.collection}/{self.id}"


def parse_parent(parent: str) -> str:
    """Return the project of `projects/{project}`. Raises FIELD_INVALID."""
    parts = parent.split("/")
    if len(parts) != 2 or parts[0] != "projects" or not _ID.fullmatch(parts[1]):
        raise TunefleetError.field("parent", f"'{parent}' is not of the form projects/{{project}}")
    return parts[1]


def parse_name(name: str, collection: str, field: str = "name") -> ResourceName:
    """Return the parts of `projects/{project}/{collection}/{id}`. Raises FIELD_INVALID."""
    parts = name.split("/")
    if len(parts) != 4 or parts[0] != "projects" or parts[2] != collection or not all(parts):
        raise TunefleetError.field(
            field, f"'{name}' is not of the form projects/{{project}}/{collection}/{{id}}"
        )
    return ResourceName(project=parts[1], collection=collection, id=parts[3])


def check_id(value: str, field: str) -> str:
    """Return an id a user chose. Raises FIELD_INVALID."""
    if not _ID.fullmatch(value):
        raise TunefleetError.field(
            field,
            f"'{value}' is not an id: a-z, 0-9 and hyphens, a letter first, at most {_MAX_ID}",
        )
    return value


def fresh_id(stem: str) -> str:
    """Return an id that begins with a stem and ends in something nobody has yet."""
    end = "".join(secrets.choice(_ALPHABET) for _ in range(4))
    return f"{stem[: _MAX_ID - 5].rstrip('-')}-{end}"


def fresh_uid() -> str:
    """Return a uid that nothing has yet: 32 hex digits, the millisecond first, then 80 random bits.

    What is made together so lies together in every index of the store. By random uids each row of a
    commit would lie on a page of its own, and a commit costs by its pages.
    """
    return f"{time.time_ns() // 1_000_000:012x}{_RANDOM.getrandbits(80):020x}"
