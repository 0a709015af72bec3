"""Pages as OpenAI has them, behind an id, over pages of ours, behind a token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from aiohttp import web

from tunefleet_core.errors import TunefleetError

__all__ = ["behind", "limit_of", "list_document"]

_Found = TypeVar("_Found")


async def behind(
    pages: Callable[[str], Awaitable[tuple[Sequence[_Found], str]]],
    *,
    is_wanted: Callable[[_Found], bool],
    id_of: Callable[[_Found], str],
    after: str,
    limit: int,
) -> tuple[list[_Found], bool]:
    """Return up to `limit` items behind the one with the id `after`, and whether there are more.

    Raises:
        TunefleetError: FIELD_INVALID if no item has that id.
    """
    found: list[_Found] = []
    is_behind, token = not after, ""
    while True:
        items, token = await pages(token)
        for item in items:
            if is_behind and is_wanted(item):
                if len(found) == limit:
                    return found, True
                found.append(item)
            is_behind = is_behind or id_of(item) == after
        if not token:
            break
    if not is_behind:
        raise TunefleetError.field("after", f"'{after}' is no id of this list")
    return found, False


def limit_of(request: web.Request, *, usual: int, most: int) -> int:
    """Return `limit` of a query.

    Raises:
        TunefleetError: FIELD_INVALID if it is no number from 1 to `most`.
    """
    text = request.query.get("limit", str(usual))
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= most):
        raise TunefleetError.field("limit", f"'{text[:32]}' is no number from 1 to {most}")
    return int(text)


def list_document(items: Sequence[dict[str, object]], has_more: bool) -> dict[str, object]:
    """Return a page as OpenAI clients read it."""
    return {
        "object": "list",
        "data": list(items),
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }
