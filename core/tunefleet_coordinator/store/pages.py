"""Pages of a list: keyset pagination with opaque tokens."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from tunefleet_core.errors import TunefleetError

__all__ = ["DEFAULT_PAGE_SIZE", "MAX_PAGE_SIZE", "Page", "page_length", "position_of", "token_of"]

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 500

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[_Item]):
    """One page, and the token of the next; empty at the end."""

    items: tuple[_Item, ...]
    next_page_token: str = ""


def page_length(page_size: int) -> int:
    """Return how many items a page may have: 0 is the default, more than the most is the most.

    Raises:
        TunefleetError: FIELD_INVALID if it is negative.
    """
    if page_size < 0:
        raise TunefleetError.field("page_size", "must not be negative")
    return min(page_size, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE


def token_of(*position: str | int | float) -> str:
    """Return the token of the page after a position in the list's order."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def position_of(token: str, types: tuple[type, ...]) -> tuple[str | int | float, ...] | None:
    """Return the position that a token stands for; None for the first page.

    Raises:
        TunefleetError: FIELD_INVALID if this list made no such token.
    """
    if not token:
        return None
    try:
        raw = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (binascii.Error, ValueError):
        raw = None
    if isinstance(raw, list):
        values = cast("list[str | int | float]", raw)
        if len(values) == len(types) and all(
            isinstance(value, kind) for value, kind in zip(values, types, strict=True)
        ):
            return tuple(values)
    raise TunefleetError.field(
        "page_token", "is not one that this list has given", hint="Start again without a page_token."
    )
