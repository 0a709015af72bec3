"""The matrix of the fleet as it stands: judged once per set of backends, then only filtered."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Iterable, Sequence
from itertools import islice

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet.catalog.v1 import catalog_service_pb2 as pb
from tunefleet.fleet.v1.fleet_pb2 import Service
from tunefleet_coordinator.store import Page
from tunefleet_coordinator.store.pages import page_length, position_of, token_of
from tunefleet_core.catalog.matrix import Cell, Matrix, Standing, Verdict, combinations
from tunefleet_core.lifecycle import ServiceRow
from tunefleet_core.plugins import PluginSet

__all__ = ["Combinations"]

_STANDINGS = {
    Standing.PROVEN: pb.STANDING_PROVEN,
    Standing.STATED: pb.STANDING_STATED,
    Standing.UNKNOWN: pb.STANDING_UNSPECIFIED,
    Standing.NO: pb.STANDING_NO,
}
_ACTIVE = "ACTIVE"


class Combinations:
    """Keeps the matrix of the backends that were there when it was last asked for."""

    def __init__(self, plugins: PluginSet) -> None:
        self._plugins = plugins
        self._backends: frozenset[bytes] = frozenset()
        self._judged: asyncio.Task[tuple[pb.Combination, ...]] | None = None

    async def page(
        self, services: Iterable[ServiceRow], request: pb.ListCombinationsRequest
    ) -> Page[pb.Combination]:
        """Return the page of the combinations that a request asks for.

        Raises:
            TunefleetError: FIELD_INVALID for a negative size or a foreign token.
        """
        backends = frozenset(
            installed.manifest.SerializeToString(deterministic=True)
            for row in services
            for installed in Service.FromString(row.description).backends
            if installed.status == _ACTIVE
        )
        if self._judged is None or backends != self._backends:
            # Thousands of cells take a while: not on the loop. A task of its own, so that
            # a caller whose time is over leaves the answer to whoever asks next.
            self._backends = backends
            self._judged = asyncio.create_task(asyncio.to_thread(self._judge, sorted(backends)))
        judging = self._judged
        try:
            judged = await asyncio.shield(judging)
        except Exception:
            if self._judged is judging:
                self._judged = None
            raise
        return await asyncio.to_thread(_page, judged, request)

    def _judge(self, backends: Sequence[bytes]) -> tuple[pb.Combination, ...]:
        manifests = [BackendManifest.FromString(content) for content in backends]
        matrix = Matrix.of(manifests, self._plugins.families(), self._plugins.formats())
        return tuple(_combination(cell, verdict) for cell, verdict in combinations(matrix))


def _key(item: pb.Combination) -> tuple[str, ...]:
    """Return what combinations are ordered by: the order of the matrix's cells."""
    return item.family, item.backend, item.method, item.adaptation, item.format, item.engine


def _page(judged: Sequence[pb.Combination], request: pb.ListCombinationsRequest) -> Page[pb.Combination]:
    # A hundred pages of a hundred thousand cells: none may sort or read what came before it.
    length = page_length(request.page_size)
    position = position_of(request.page_token, (str,) * 6)
    after = tuple(str(part) for part in position) if position is not None else ()
    backends, families, engines = (
        frozenset(asked) for asked in (request.backends, request.families, request.engines)
    )
    found = (
        item
        for item in islice(judged, bisect.bisect_right(judged, after, key=_key), None)
        if (not backends or item.backend in backends)
        and (not families or item.family in families)
        and (not engines or item.engine in engines)
        and request.standing in (pb.STANDING_UNSPECIFIED, item.standing)
    )
    items = tuple(islice(found, length + 1))
    more = len(items) > length
    return Page(items=items[:length], next_page_token=token_of(*_key(items[length - 1])) if more else "")


def _combination(cell: Cell, verdict: Verdict) -> pb.Combination:
    return pb.Combination(
        backend=cell.backend,
        method=cell.method,
        adaptation=cell.adaptation,
        format=cell.format,
        family=cell.family,
        engine=cell.engine,
        standing=_STANDINGS[verdict.standing],
        reason=verdict.reason,
        instead=verdict.instead,
    )
