"""The process that moves blobs: one listener, the coordinator's interceptors, its store."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from tunefleet_coordinator.blobs.handlers import blob_handlers
from tunefleet_coordinator.blobs.handovers import Handovers
from tunefleet_coordinator.blobs.servicer import BlobServicer
from tunefleet_coordinator.holding import hold_file
from tunefleet_coordinator.security import AuthInterceptor, TokenLookup
from tunefleet_coordinator.store.schema import HEAD_REVISION
from tunefleet_coordinator.store.state_version import refuse_newer
from tunefleet_core.artifacts import PIECE_BYTES, BlobStore, Watermark, keep_freed_memory
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import ErrorInterceptor, is_loopback

__all__ = ["BlobOptions", "serve"]

_LOG = logging.getLogger(__name__)
_OPTIONS = [
    # A piece and its frame: what a stranger can make this process hold stays small.
    ("grpc.max_receive_message_length", 2 * PIECE_BYTES),
    ("grpc.max_send_message_length", 2 * PIECE_BYTES),
    # A piece in one frame instead of 64: a third of what receiving costs.
    ("grpc.http2.max_frame_size", 2 * PIECE_BYTES),
    ("grpc.so_reuseport", 0),  # a port that is taken must be an error
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobOptions:
    """How the process is started."""

    state_folder: Path
    address: str
    least_free_bytes: int | None = None
    """See `Watermark`."""


async def serve(options: BlobOptions, tokens: TokenLookup) -> None:
    """Serve until cancelled.

    Raises:
        TunefleetError: STATE_FOLDER_HELD, STATE_TOO_NEW, FIELD_INVALID for an address beyond this machine,
            UNAVAILABLE if the port is taken.
    """
    if not is_loopback(options.address):
        raise TunefleetError.field(
            "address", f"'{options.address}' is reachable from other machines, which needs TLS"
        )
    await asyncio.to_thread(refuse_newer, options.state_folder / "coordinator.db", HEAD_REVISION)
    root = options.state_folder / "artifacts"
    keep_freed_memory()
    with hold_file(options.state_folder / "blobs.lock", "blobs process"):
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        server = grpc.aio.server(interceptors=[ErrorInterceptor(), AuthInterceptor(tokens)], options=_OPTIONS)
        watermark = Watermark(folder=root, least_bytes=options.least_free_bytes)
        handovers = Handovers(options.state_folder / "blobs.sock")
        servicer = BlobServicer(BlobStore(root), watermark, handovers)
        server.add_generic_rpc_handlers((blob_handlers(servicer),))
        try:
            _listen(server, options.address)
            await server.start()
            _LOG.info("serving blobs at %s", options.address)
            await handovers.serve()
        finally:
            # A server that is not stopped hangs the interpreter's exit.
            await server.stop(grace=0.5)


def _listen(server: grpc.aio.Server, address: str) -> None:
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        raise TunefleetError(
            Reason.UNAVAILABLE,
            f"The blobs process cannot listen at {address}: the port is taken, or not allowed.",
            hint="Stop what listens there, or choose another port.",
            metadata={"address": address},
        ) from None
