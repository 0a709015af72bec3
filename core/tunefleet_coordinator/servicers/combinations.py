"""The matrix of the fleet as it stands: judged once per set of backends, then only filtered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet.catalog.v1 import catalog_service_pb2 as pb
from tunefleet.fleet.v1.fleet_pb2 import Service
from tunefleet_core.catalog.matrix import Cell, Matrix, Standing, Verdict, combinations
from tunefleet_core.lifecycle import ServiceRow
from tunefleet_core.plugins import PluginSet

__all__ = ["Combinations", "key_of"]

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
        self._judged: tuple[pb.Combination, ...] = ()

    async def of(
        self, services: Iterable[ServiceRow], request: pb.ListCombinationsRequest
    ) -> list[pb.Combination]:
        """Return the combinations that a request asks for, in any order."""
        manifests = {
            installed.manifest.SerializeToString(deterministic=True)
            for row in services
            for installed in Service.FromString(row.description).backends
            if installed.status == _ACTIVE
        }
        backends = frozenset(manifests)
        if backends != self._backends or not self._judged:
            # Thousands of cells take a while: not on the loop.
            judged = await asyncio.to_thread(self._judge, sorted(backends))
            self._backends, self._judged = backends, judged
        return [item for item in self._judged if _is_asked_for(item, request)]

    def _judge(self, backends: Sequence[bytes]) -> tuple[pb.Combination, ...]:
        manifests = [BackendManifest.FromString(content) for content in backends]
        matrix = Matrix.of(manifests, self._plugins.families(), self._plugins.formats())
        return tuple(_combination(cell, verdict) for cell, verdict in combinations(matrix))


def key_of(item: pb.Combination) -> tuple[str, ...]:
    """Return what combinations are ordered by."""
    return item.family, item.backend, item.method, item.adaptation, item.format, item.engine


def _is_asked_for(item: pb.Combination, request: pb.ListCombinationsRequest) -> bool:
    return (
        (not request.backends or item.backend in request.backends)
        and (not request.families or item.family in request.families)
        and (not request.engines or item.engine in request.engines)
        and request.standing in (pb.STANDING_UNSPECIFIED, item.standing)
    )


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
