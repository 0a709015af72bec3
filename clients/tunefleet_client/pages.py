"""Walk the pages of a List call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

__all__ = ["all_pages"]

_Item = TypeVar("_Item")
_MOST_PER_PAGE = 500


async def all_pages(
    page: Callable[[int, str], Awaitable[tuple[Sequence[_Item], str]]], *, limit: int | None
) -> tuple[_Item, ...]:
    """Return the items of all pages, at most `limit`.

    Args:
        page: From a page size and token to the items and the next token.
        limit: Most items; None: all.
    """
    items: list[_Item] = []
    token = ""
    while limit is None or len(items) < limit:
        size = _MOST_PER_PAGE if limit is None else min(_MOST_PER_PAGE, limit - len(items))
        found, token = await page(size, token)
        items.extend(found)
        if not token:
            break
    return tuple(items if limit is None else items[:limit])
