"""The methods of BlobService with readers and writers that do not copy pieces.

See `tunefleet_core.artifacts.pieces`: what travels is what the proto says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, cast

import grpc.aio
from google.protobuf.message import Message

from tunefleet.artifact.v1 import blob_service_pb2 as wire
from tunefleet_client.calls import Connection
from tunefleet_core.artifacts import Piece, piece_reader, write_message

__all__ = ["BlobCalls", "DownloadCall", "UploadCall", "next_of"]

_PATH = f"/{wire.DESCRIPTOR.services_by_name['BlobService'].full_name}"

if TYPE_CHECKING:
    UploadCall: TypeAlias = grpc.aio.StreamUnaryCall[Message | Piece, wire.UploadBlobResponse]
    DownloadCall: TypeAlias = grpc.aio.UnaryStreamCall[
        wire.DownloadBlobRequest, wire.DownloadBlobResponse | memoryview
    ]


class BlobCalls:
    """Calls of one blobs process."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def get(self, sha256: str, upload_id: str, *, size_bytes: int = 0) -> wire.GetBlobResponse:
        """Ask how much of a blob, or of an upload, is there, and whether any blob has its size."""
        method = self.connection.channel.unary_unary(
            f"{_PATH}/GetBlob",
            request_serializer=wire.GetBlobRequest.SerializeToString,
            response_deserializer=wire.GetBlobResponse.FromString,
        )
        request = wire.GetBlobRequest(sha256=sha256, upload_id=upload_id, upload_size_bytes=size_bytes)
        return await self.connection.unary(method, request)

    async def open_handover(self, sha256: str) -> wire.OpenHandoverResponse:
        """Ask for a ticket: for a blob, or to pass a file."""
        method = self.connection.channel.unary_unary(
            f"{_PATH}/OpenHandover",
            request_serializer=wire.OpenHandoverRequest.SerializeToString,
            response_deserializer=wire.OpenHandoverResponse.FromString,
        )
        return await self.connection.unary(method, wire.OpenHandoverRequest(sha256=sha256))

    def upload(self) -> UploadCall:
        """Begin an upload; it is written to."""
        method = self.connection.channel.stream_unary(
            f"{_PATH}/UploadBlob",
            request_serializer=write_message,
            response_deserializer=wire.UploadBlobResponse.FromString,
        )
        return method(metadata=self.connection.metadata)

    def download(self, sha256: str, offset: int) -> DownloadCall:
        """Begin a download; it is read from."""
        method = self.connection.channel.unary_stream(
            f"{_PATH}/DownloadBlob",
            request_serializer=wire.DownloadBlobRequest.SerializeToString,
            response_deserializer=piece_reader(wire.DownloadBlobResponse),
        )
        return method(
            wire.DownloadBlobRequest(sha256=sha256, offset=offset), metadata=self.connection.metadata
        )


async def next_of(call: DownloadCall) -> wire.DownloadBlobResponse | memoryview | None:
    """Return the next message of a download, None at its end."""
    response = await call.read()
    return None if response is grpc.aio.EOF else cast("wire.DownloadBlobResponse | memoryview", response)
