"""Datasets: rows that are sent once and named in jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunefleet.dataset.v1 import dataset_service_pb2 as wire
from tunefleet.dataset.v1.dataset_pb2 import Dataset
from tunefleet.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from tunefleet_client.calls import RESOLVE_DEADLINE_SECONDS, Connection
from tunefleet_client.names import resource_name
from tunefleet_client.pages import all_pages
from tunefleet_client.requests import new_request_id
from tunefleet_client.transfers import Progress, Transfers

if TYPE_CHECKING:
    from tunefleet.dataset.v1.dataset_service_pb2_grpc import DatasetServiceAsyncStub

__all__ = ["Datasets"]

_READ_ROWS_DEADLINE_SECONDS = 1800.0


class Datasets:
    """The datasets of one project. Every method raises TunefleetError."""

    def __init__(self, connection: Connection, project: str, transfers: Transfers) -> None:
        self._connection = connection
        self._project = project
        self._transfers = transfers
        self._stub: DatasetServiceAsyncStub = DatasetServiceStub(connection.channel)

    async def create(
        self,
        name: str,
        file: str | Path,
        *,
        labels: Mapping[str, str] | None = None,
        progress: Progress | None = None,
        request_id: str | None = None,
    ) -> Dataset:
        """Send a JSONL file and make a dataset of it, if every row can be read.

        Raises:
            TunefleetError: DATA_INVALID naming line and field of the first wrong row,
                DATASET_EXISTS if the name has other rows, and what `transfers.upload` raises.

        Example:
            >>> await client.datasets.create("tickets", "train.jsonl")  # doctest: +SKIP
        """
        sha256 = await self._transfers.upload(file, progress=progress)
        request = wire.CreateDatasetRequest(
            request_id=new_request_id(request_id),
            parent=f"projects/{self._project}",
            dataset_id=name,
            sha256=sha256,
            labels=dict(labels or {}),
        )
        response = await self._connection.unary(
            self._stub.CreateDataset, request, deadline_seconds=_READ_ROWS_DEADLINE_SECONDS
        )
        return response.dataset

    async def get(self, name: str) -> Dataset:
        """Return a dataset."""
        request = wire.GetDatasetRequest(name=self._name(name))
        return (await self._connection.unary(self._stub.GetDataset, request)).dataset

    async def list(self, *, limit: int | None = None) -> tuple[Dataset, ...]:
        """Return datasets, newest first."""

        async def page(size: int, token: str) -> tuple[Sequence[Dataset], str]:
            request = wire.ListDatasetsRequest(
                parent=f"projects/{self._project}", page_size=size, page_token=token
            )
            response = await self._connection.unary(self._stub.ListDatasets, request)
            return response.datasets, response.next_page_token

        return await all_pages(page, limit=limit)

    async def delete(self, name: str, *, allow_missing: bool = False, request_id: str | None = None) -> None:
        """Remove a dataset. Jobs that were submitted with it keep their rows."""
        request = wire.DeleteDatasetRequest(
            request_id=new_request_id(request_id), name=self._name(name), allow_missing=allow_missing
        )
        await self._connection.unary(self._stub.DeleteDataset, request)

    async def check(
        self,
        source: str,
        *,
        model: str,
        revision: str = "",
        max_length: int = 0,
        loss_on: str = "",
    ) -> wire.CheckRowsResponse:
        """Read rows as training with a base would: lengths, loss mask, wrong rows.

        Args:
            source: A JSONL file on the trainer's host, or `datasets/<name>`.
            model: The base: folder or Hub id.
            revision: Hub revision.
            max_length: Longest row in tokens; 0: no limit.
            loss_on: Which tokens carry loss: `assistant` (default) or `all`.
        """
        request = wire.CheckRowsRequest(
            parent=f"projects/{self._project}",
            source=source,
            model=model,
            revision=revision,
            max_length=max_length,
            loss_on=loss_on,
        )
        return await self._connection.unary(
            self._stub.CheckRows, request, deadline_seconds=RESOLVE_DEADLINE_SECONDS
        )

    def _name(self, name: str) -> str:
        return resource_name(name, collection="datasets", project=self._project)
