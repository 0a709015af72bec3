"""The methods of BlobService with readers and writers that do not copy pieces.

What travels is what the proto says; only the way between bytes and objects is not the generated one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from tunefleet.artifact.v1 import blob_service_pb2 as pb
from tunefleet_core.artifacts import piece_reader, write_message

if TYPE_CHECKING:
    from tunefleet_coordinator.blobs.servicer import BlobServicer

__all__ = ["blob_handlers"]

_SERVICE = pb.DESCRIPTOR.services_by_name["BlobService"]


def blob_handlers(servicer: BlobServicer) -> grpc.GenericRpcHandler:
    """Return the handlers of a servicer, for `add_generic_rpc_handlers`."""
    handlers = {
        "GetBlob": grpc.unary_unary_rpc_method_handler(
            servicer.GetBlob, pb.GetBlobRequest.FromString, write_message
        ),
        "UploadBlob": grpc.stream_unary_rpc_method_handler(
            servicer.UploadBlob, piece_reader(pb.UploadBlobRequest), write_message
        ),
        "DownloadBlob": grpc.unary_stream_rpc_method_handler(
            servicer.DownloadBlob, pb.DownloadBlobRequest.FromString, write_message
        ),
        "OpenHandover": grpc.unary_unary_rpc_method_handler(
            servicer.OpenHandover, pb.OpenHandoverRequest.FromString, write_message
        ),
    }
    assert handlers.keys() == set(_SERVICE.methods_by_name)
    return grpc.method_handlers_generic_handler(_SERVICE.full_name, handlers)
