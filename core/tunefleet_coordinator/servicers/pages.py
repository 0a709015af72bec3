"""Pages of lists that are short enough to be held in memory, ordered by a name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from tunefleet_coordinator.store import Page
from tunefleet_coordinator.store.pages import page_length, position_of, token_of

__all__ = ["PageRequest", "page_of"]

_Item = TypeVar("_Item")


class PageRequest(Protocol):
    """A request of a List method."""

    @property
    def page_size(self) -> int: ...

    @property
    def page_token(self) -> str: ...


def page_of(
    items: Iterable[_Item], request: PageRequest, name_of: Callable[[_Item], tuple[str, ...]]
) -> Page[_Item]:
    """Return the page of `items` that a request asks for, ordered by name.

    Args:
        items: All of them, in any order.
        request: Says how many, and after which.
        name_of: A unique name of an item, of as many parts for each.

    Raises:
        TunefleetError: FIELD_INVALID for a negative size or a foreign token.
    """
    ordered = sorted(items, key=name_of)
    length = page_length(request.page_size)
    parts = len(name_of(ordered[0])) if ordered else 1
    position = position_of(request.page_token, (str,) * parts)
    if position is not None:
        after = tuple(str(part) for part in position)
        ordered = [item for item in ordered if name_of(item) > after]
    page = ordered[:length]
    more = len(ordered) > length
    return Page(items=tuple(page), next_page_token=token_of(*name_of(page[-1])) if more else "")
