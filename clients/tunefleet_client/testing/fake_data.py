"""The servicers of FakeCoordinator for datasets, manifests, blobs and pruning."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from tunefleet.artifact.v1 import artifact_service_pb2 as artifact
from tunefleet.artifact.v1 import blob_service_pb2 as blob
from tunefleet.artifact.v1.artifact_service_pb2_grpc import ArtifactServiceServicer
from tunefleet.artifact.v1.blob_service_pb2_grpc import BlobServiceServicer
from tunefleet.dataset.v1 import dataset_service_pb2 as dataset
from tunefleet.dataset.v1.dataset_pb2 import Dataset
from tunefleet.dataset.v1.dataset_service_pb2_grpc import DatasetServiceServicer
from tunefleet_client.testing.fake_servicers import Context, missing, page
from tunefleet_core.errors import Reason, TunefleetError

if TYPE_CHECKING:
    from tunefleet_client.testing.fake_coordinator import FakeCoordinator

__all__ = ["FakeArtifacts", "FakeBlobs", "FakeDatasets"]

_CHUNK_BYTES = 1 << 20


class FakeDatasets(DatasetServiceServicer):
    """DatasetService over the blobs that were uploaded."""

    def __init__(self, fake: FakeCoordinator) -> None:
        self._fake = fake

    async def GetDataset(
        self, request: dataset.GetDatasetRequest, context: Context
    ) -> dataset.GetDatasetResponse:
        await self._fake.admit(request, context)
        if request.name not in self._fake.datasets:
            await self._fake.abort(context, missing(Reason.DATASET_NOT_FOUND, "dataset", request.name))
        return dataset.GetDatasetResponse(dataset=self._fake.datasets[request.name])

    async def ListDatasets(
        self, request: dataset.ListDatasetsRequest, context: Context
    ) -> dataset.ListDatasetsResponse:
        await self._fake.admit(request, context)
        found, token = page(self._fake.datasets.values(), request.page_size, request.page_token)
        return dataset.ListDatasetsResponse(datasets=found, next_page_token=token)

    async def CreateDataset(
        self, request: dataset.CreateDatasetRequest, context: Context
    ) -> dataset.CreateDatasetResponse:
        await self._fake.admit(request, context)
        content = self._fake.blobs.get(request.sha256)
        if content is None:
            await self._fake.abort(context, missing(Reason.BLOB_NOT_FOUND, "blob", request.sha256))
        name = f"{request.parent}/datasets/{request.dataset_id}"
        created = Dataset(
            name=name,
            uid="u-1",
            sha256=request.sha256,
            size_bytes=len(content),
            rows=content.count(b"\n"),
            format="messages",
            labels=request.labels,
        )
        if self._fake.datasets.setdefault(name, created).sha256 != request.sha256:
            taken = TunefleetError(
                Reason.DATASET_EXISTS,
                f"Dataset '{request.dataset_id}' has other rows.",
                hint="Pick another id.",
            )
            await self._fake.abort(context, taken)
        return dataset.CreateDatasetResponse(dataset=self._fake.datasets[name])

    async def DeleteDataset(
        self, request: dataset.DeleteDatasetRequest, context: Context
    ) -> dataset.DeleteDatasetResponse:
        await self._fake.admit(request, context)
        if self._fake.datasets.pop(request.name, None) is None and not request.allow_missing:
            await self._fake.abort(context, missing(Reason.DATASET_NOT_FOUND, "dataset", request.name))
        return dataset.DeleteDatasetResponse()

    async def CheckRows(
        self, request: dataset.CheckRowsRequest, context: Context
    ) -> dataset.CheckRowsResponse:
        await self._fake.admit(request, context)
        return self._fake.check


class FakeArtifacts(ArtifactServiceServicer):
    """The part of ArtifactService that people call."""

    def __init__(self, fake: FakeCoordinator) -> None:
        self._fake = fake

    async def GetManifest(
        self, request: artifact.GetManifestRequest, context: Context
    ) -> artifact.GetManifestResponse:
        await self._fake.admit(request, context)
        if request.digest not in self._fake.manifests:
            await self._fake.abort(context, missing(Reason.MANIFEST_NOT_FOUND, "manifest", request.digest))
        return artifact.GetManifestResponse(manifest=self._fake.manifests[request.digest])

    async def PruneArtifacts(
        self, request: artifact.PruneArtifactsRequest, context: Context
    ) -> artifact.PruneArtifactsResponse:
        await self._fake.admit(request, context)
        return self._fake.prunable


class FakeBlobs(BlobServiceServicer):
    """BlobService in memory; an upload that is cut is kept up to where it came."""

    def __init__(self, fake: FakeCoordinator) -> None:
        self._fake = fake
        self._partial: dict[str, bytearray] = {}

    async def GetBlob(self, request: blob.GetBlobRequest, context: Context) -> blob.GetBlobResponse:
        await self._fake.admit(request, context)
        content = self._fake.blobs.get(request.sha256)
        if content is not None:
            return blob.GetBlobResponse(is_complete=True, size_bytes=len(content))
        key = request.upload_id or request.sha256
        return blob.GetBlobResponse(size_bytes=len(self._partial.get(key, b"")))

    async def UploadBlob(
        self, request_iterator: AsyncIterator[blob.UploadBlobRequest], context: Context
    ) -> blob.UploadBlobResponse:
        start = (await anext(request_iterator)).start
        await self._fake.admit(start, context)
        key, sha256 = start.upload_id or start.sha256, start.sha256
        content = self._partial.setdefault(key, bytearray())
        if start.offset != len(content):
            moved = TunefleetError(Reason.UPLOAD_MOVED, f"The upload stands at {len(content)} bytes.")
            await self._fake.abort(context, moved)
        await context.send_initial_metadata(())  # the upload is taken
        async for request in request_iterator:
            content += request.chunk
            sha256 = request.sha256 or sha256
        whole = bytes(self._partial.pop(key))
        found = hashlib.sha256(whole).hexdigest()
        if found != (sha256 or found):
            wrong = TunefleetError(Reason.DIGEST_MISMATCH, "The bytes are not those of the digest.")
            await self._fake.abort(context, wrong)
        self._fake.blobs[found] = whole
        return blob.UploadBlobResponse(size_bytes=len(whole), sha256=found)

    async def OpenHandover(
        self, request: blob.OpenHandoverRequest, context: Context
    ) -> blob.OpenHandoverResponse:
        await self._fake.admit(request, context)
        elsewhere = TunefleetError(
            Reason.CAPABILITY_UNSUPPORTED, "Files are not handed over here; send their bytes."
        )
        await self._fake.abort(context, elsewhere)

    async def DownloadBlob(
        self, request: blob.DownloadBlobRequest, context: Context
    ) -> AsyncIterator[blob.DownloadBlobResponse]:
        await self._fake.admit(request, context)
        content = self._fake.blobs.get(request.sha256)
        if content is None:
            await self._fake.abort(context, missing(Reason.BLOB_NOT_FOUND, "blob", request.sha256))
        size = len(content)
        for begin in range(request.offset, max(size, request.offset + 1), _CHUNK_BYTES):
            yield blob.DownloadBlobResponse(
                size_bytes=size if begin == request.offset else 0, chunk=content[begin : begin + _CHUNK_BYTES]
            )
