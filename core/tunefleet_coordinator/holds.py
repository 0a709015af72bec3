"""What requests under way are about to need, so that nothing is removed under them.

A job or a deployment is resolved for seconds before it is in the store. Meanwhile it holds
what it has found: models by manifest, datasets by blob. Whoever removes looks at the holds, then
at the store, and lets no new hold begin in between.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

__all__ = ["Holds"]


class Holds:
    """Digests and names that requests under way have found."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()
        self._gate = asyncio.Lock()
        self._taken: ContextVar[list[str] | None] = ContextVar("taken", default=None)

    @contextmanager
    def request(self) -> Generator[None]:
        """Keep what is taken inside until the end of the block: after the request is in the store."""
        taken: list[str] = []
        token = self._taken.set(taken)
        try:
            yield
        finally:
            self._taken.reset(token)
            if taken:
                self._held.subtract(taken)
                self._held += Counter()  # forget what nobody holds any more

    @asynccontextmanager
    async def taking(self, name: str) -> AsyncGenerator[Callable[[str], None]]:
        """Look something up and hold it, as one step against removals.

        Outside `request` (a plan, a question) nothing is held: it needs nothing later.
        """
        async with self._gate:
            taken = self._taken.get()

            def take(key: str) -> None:
                if taken is not None:
                    taken.append(key)
                    self._held[key] += 1

            take(name)
            yield take

    @asynccontextmanager
    async def removing(self) -> AsyncGenerator[frozenset[str]]:
        """Yield what is held; until the end of the block nothing else can be."""
        async with self._gate:
            yield frozenset(self._held)
