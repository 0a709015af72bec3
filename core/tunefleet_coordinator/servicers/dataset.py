"""DatasetService."""

from __future__ import annotations

import asyncio

from tunefleet.dataset.v1 import dataset_service_pb2 as pb
from tunefleet.dataset.v1 import dataset_service_pb2_grpc as dataset_grpc
from tunefleet.dataset.v1.dataset_pb2 import Dataset
from tunefleet.job.v1.spec_pb2 import BaseModel
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.names import ResourceName, check_id, fresh_uid, parse_name, parse_parent
from tunefleet_coordinator.requests import InFlight, request_of
from tunefleet_coordinator.resolver import Resolver, RowQuestion
from tunefleet_coordinator.row_reading import RowReader
from tunefleet_coordinator.security import current_principal, require_project
from tunefleet_coordinator.store import DatasetRow
from tunefleet_coordinator.store.answers import answered
from tunefleet_coordinator.store.datasets import (
    delete_dataset,
    insert_dataset,
    list_datasets,
    require_dataset,
)
from tunefleet_core.artifacts import BlobStore, Watermark, check_sha256
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import Request
from tunefleet_core.rpc import RpcContext
from tunefleet_core.timestamps import timestamp_of

__all__ = ["DatasetServicer"]

_MESSAGES = "messages"


class DatasetServicer(dataset_grpc.DatasetServiceServicer):
    """Answers for datasets; the docs of each method are in the proto."""

    def __init__(self, kernel: Kernel, resolver: Resolver, blobs: BlobStore, watermark: Watermark) -> None:
        self._kernel = kernel
        self._resolver = resolver
        self._blobs = blobs
        self._watermark = watermark
        self._reader = RowReader()
        self._in_flight = InFlight()

    async def GetDataset(self, request: pb.GetDatasetRequest, context: RpcContext) -> pb.GetDatasetResponse:
        name = parse_name(request.name, "datasets")
        require_project(name.project)
        row = await self._kernel.read(self._kernel.store.read, require_dataset, str(name))
        return pb.GetDatasetResponse(dataset=_view(row))

    async def ListDatasets(
        self, request: pb.ListDatasetsRequest, context: RpcContext
    ) -> pb.ListDatasetsResponse:
        project = parse_parent(request.parent)
        require_project(project)
        page = await self._kernel.read(
            self._kernel.store.read,
            list_datasets,
            project,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return pb.ListDatasetsResponse(
            datasets=[_view(row) for row in page.items], next_page_token=page.next_page_token
        )

    async def CreateDataset(
        self, request: pb.CreateDatasetRequest, context: RpcContext
    ) -> pb.CreateDatasetResponse:
        project = parse_parent(request.parent)
        require_project(project)
        check_sha256(request.sha256, "sha256")
        name = ResourceName(
            project=project, collection="datasets", id=check_id(request.dataset_id, "dataset_id")
        )
        idempotency = request_of(request, "CreateDataset")

        async def create(_: bool) -> DatasetRow:
            store = self._kernel.store
            known = await self._kernel.read(store.read, answered, idempotency)
            if known is not None:
                return await self._kernel.read(store.read, require_dataset, known)
            return await self._create(name, request, idempotency)

        row = await self._in_flight.one_at_a_time(idempotency, create)
        return pb.CreateDatasetResponse(dataset=_view(row))

    async def DeleteDataset(
        self, request: pb.DeleteDatasetRequest, context: RpcContext
    ) -> pb.DeleteDatasetResponse:
        name = parse_name(request.name, "datasets")
        require_project(name.project)
        await self._kernel.write(
            self._kernel.store.write,
            delete_dataset,
            str(name),
            request_of(request, "DeleteDataset"),
            allow_missing=request.allow_missing,
            at=self._kernel.moment().wall,
        )
        return pb.DeleteDatasetResponse()

    async def CheckRows(self, request: pb.CheckRowsRequest, context: RpcContext) -> pb.CheckRowsResponse:
        project = parse_parent(request.parent)
        require_project(project)
        if not request.source:
            raise TunefleetError.field("source", "is missing; name a JSONL file or datasets/<name>")
        if not request.model:
            raise TunefleetError.field("model", "is missing; name the folder or Hub id of a base")
        if request.loss_on not in ("", "assistant", "all"):
            raise TunefleetError.field("loss_on", f"must be 'assistant' or 'all', got '{request.loss_on}'")
        if request.max_length < 0:
            raise TunefleetError.field("max_length", "must not be negative")
        question = RowQuestion(
            source=request.source,
            base=BaseModel(model=request.model, revision=request.revision),
            max_length=request.max_length,
            loss_on=request.loss_on or "assistant",
        )
        checked = await self._resolver.check_rows(project, question)
        return pb.CheckRowsResponse(
            audit=checked.mask, template_source=checked.template.source, family=checked.template.family
        )

    async def _create(
        self, name: ResourceName, request: pb.CreateDatasetRequest, idempotency: Request | None
    ) -> DatasetRow:
        await asyncio.to_thread(self._watermark.require)
        # Renewing it keeps a prune away until the dataset is in the store.
        if not await asyncio.to_thread(self._blobs.renew, request.sha256):
            raise TunefleetError(
                Reason.BLOB_NOT_FOUND,
                f"The store has no blob {request.sha256[:12]}.",
                hint="Upload the file first.",
                metadata={"sha256": request.sha256},
            )
        path = self._blobs.path_of(request.sha256)
        rows = await self._reader.count(path, name.id)
        row = DatasetRow(
            uid=fresh_uid(),
            name=str(name),
            project=name.project,
            sha256=request.sha256,
            size_bytes=path.stat().st_size,
            rows=rows,
            format=_MESSAGES,
            labels=tuple(sorted(request.labels.items())),
            creator=current_principal().name,
            create_time=self._kernel.moment().wall,
        )
        return await self._kernel.write(self._kernel.store.write, insert_dataset, row, idempotency)


def _view(row: DatasetRow) -> Dataset:
    return Dataset(
        name=row.name,
        uid=row.uid,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        rows=row.rows,
        format=row.format,
        labels=dict(row.labels),
        create_time=timestamp_of(row.create_time),
        creator=row.creator,
    )
