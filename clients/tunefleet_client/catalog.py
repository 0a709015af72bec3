"""The catalogue: plugins, backends, model families and formats, and whether they work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunefleet.catalog.v1 import catalog_service_pb2 as wire
from tunefleet.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from tunefleet_client.calls import Connection
from tunefleet_client.pages import all_pages

if TYPE_CHECKING:
    from tunefleet.catalog.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub

__all__ = ["Catalog"]

_JUDGING_SECONDS = 120.0
"""The first who asks waits until a hundred thousand combinations are judged."""


class Catalog:
    """What is installed and known. Every method raises TunefleetError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub: CatalogServiceAsyncStub = CatalogServiceStub(connection.channel)

    async def plugins(self, *, limit: int | None = None) -> tuple[wire.Plugin, ...]:
        """Return plugins of the coordinator and backends of the fleet."""

        async def page(size: int, token: str) -> tuple[Sequence[wire.Plugin], str]:
            request = wire.ListPluginsRequest(page_size=size, page_token=token)
            response = await self._connection.unary(self._stub.ListPlugins, request)
            return response.plugins, response.next_page_token

        return await all_pages(page, limit=limit)

    async def backends(self, *, limit: int | None = None) -> tuple[wire.Backend, ...]:
        """Return the backends of the fleet, each once per environment, as each describes itself."""

        async def page(size: int, token: str) -> tuple[Sequence[wire.Backend], str]:
            request = wire.ListBackendsRequest(page_size=size, page_token=token)
            response = await self._connection.unary(self._stub.ListBackends, request)
            return response.backends, response.next_page_token

        return await all_pages(page, limit=limit)

    async def families(self, *, limit: int | None = None) -> tuple[wire.Family, ...]:
        """Return the model families that are known, by name."""

        async def page(size: int, token: str) -> tuple[Sequence[wire.Family], str]:
            request = wire.ListFamiliesRequest(page_size=size, page_token=token)
            response = await self._connection.unary(self._stub.ListFamilies, request)
            return response.families, response.next_page_token

        return await all_pages(page, limit=limit)

    async def formats(self, *, limit: int | None = None) -> tuple[wire.Format, ...]:
        """Return the quantisation formats that are known, by name, with who trains, writes and serves each.

        Example:
            >>> [item.name for item in await client.catalog.formats()]  # doctest: +SKIP
        """

        async def page(size: int, token: str) -> tuple[Sequence[wire.Format], str]:
            request = wire.ListFormatsRequest(page_size=size, page_token=token)
            response = await self._connection.unary(self._stub.ListFormats, request)
            return response.formats, response.next_page_token

        return await all_pages(page, limit=limit)

    async def combinations(
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
            >>> found = await client.catalog.combinations(families=["qwen3"])  # doctest: +SKIP
        """

        async def page(size: int, token: str) -> tuple[Sequence[wire.Combination], str]:
            request = wire.ListCombinationsRequest(
                page_size=size,
                page_token=token,
                backends=backends,
                families=families,
                engines=engines,
                standing=standing,
            )
            response = await self._connection.unary(
                self._stub.ListCombinations, request, deadline_seconds=_JUDGING_SECONDS
            )
            return response.combinations, response.next_page_token

        return await all_pages(page, limit=limit)
