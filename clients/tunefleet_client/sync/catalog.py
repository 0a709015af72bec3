"""The catalogue: plugins, backends, model families and formats, and whether they work.

Sync face of `tunefleet_client.catalog`; written by clients/generate_sync.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunefleet.catalog.v1 import catalog_service_pb2 as wire
from tunefleet_client import catalog as _async
from tunefleet_client.sync.session import Session

__all__ = ["Catalog"]


class Catalog:
    """What is installed and known. Every method raises TunefleetError."""

    def __init__(self, session: Session[Any], inner: _async.Catalog) -> None:
        self._session = session
        self._inner = inner

    def plugins(self, *, limit: int | None = None) -> tuple[wire.Plugin, ...]:
        """Return plugins of the coordinator and backends of the fleet."""
        return self._session.call(self._inner.plugins(limit=limit))

    def backends(self, *, limit: int | None = None) -> tuple[wire.Backend, ...]:
        """Return the backends of the fleet, each once per environment, as each describes itself."""
        return self._session.call(self._inner.backends(limit=limit))

    def families(self, *, limit: int | None = None) -> tuple[wire.Family, ...]:
        """Return the model families that are known, by name."""
        return self._session.call(self._inner.families(limit=limit))

    def formats(self, *, limit: int | None = None) -> tuple[wire.Format, ...]:
        """Return the quantisation formats that are known, by name, with who trains, writes and serves each.

        Example:
            >>> [item.name for item in client.catalog.formats()]  # doctest: +SKIP
        """
        return self._session.call(self._inner.formats(limit=limit))

    def combinations(
        self,
        *,
        backends: Sequence[str] = (),
        families: Sequence[str] = (),
        engines: Sequence[str] = (),
        standing: wire.Standing.ValueType = wire.STANDING_UNSPECIFIED,
        limit: int | None = None,
    ) -> tuple[wire.Combination, ...]:
        """Return what combines with what, and how that is known: the table that refuses at submit.

        What is left empty is not filtered by. An engine that is empty means the training alone.

        Example:
            >>> found = client.catalog.combinations(families=["qwen3"])  # doctest: +SKIP
        """
        return self._session.call(
            self._inner.combinations(
                backends=backends, families=families, engines=engines, standing=standing, limit=limit
            )
        )
