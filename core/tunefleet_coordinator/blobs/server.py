"""The process that moves blobs: the coordinator's interceptors, its store, and up to two listeners."""

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
from tunefleet_coordinator.security import AuthInterceptor, MemberInterceptor, TokenLookup
from tunefleet_coordinator.store.schema import HEAD_REVISION
from tunefleet_coordinator.store.state_version import refuse_newer
from tunefleet_core.artifacts import PIECE_BYTES, BlobStore, Watermark, keep_freed_memory
from tunefleet_core.errors import TunefleetError
from tunefleet_core.rpc import ErrorInterceptor, ListenerTls, listen, listener_options, require_tls

__all__ = ["BlobOptions", "serve"]

_LOG = logging.getLogger(__name__)
_OPTIONS = [
    # A piece and its frame: what a stranger can make this process hold stays small.
    ("grpc.max_receive_message_length", 2 * PIECE_BYTES),
    ("grpc.max_send_message_length", 2 * PIECE_BYTES),
    # A piece in one frame instead of 64: a third of what receiving costs.
    ("grpc.http2.max_frame_size", 2 * PIECE_BYTES),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobOptions:
    """How the process is started."""

    state_folder: Path
    address: str
    least_free_bytes: int | None = None
    """See `Watermark`."""
    tls: ListenerTls | None = None
    """Of the listener for people; demanded beyond this machine."""
    member_address: str = ""
    """Listener for services of other machines; empty: there is none."""
    member_tls: ListenerTls | None = None
    """Of that one; it asks for their certificates."""


async def serve(options: BlobOptions, tokens: TokenLookup, members: TokenLookup | None = None) -> None:
    """Serve until cancelled.

    Args:
        options: Where, and with what.
        tokens: Whose token is it.
        members: Whose certificate is it, on the listener for services of other machines.

    Raises:
        TunefleetError: STATE_FOLDER_HELD, STATE_TOO_NEW, FIELD_INVALID for an address beyond this machine
            without TLS, UNAVAILABLE if the port is taken.
    """
    require_tls("address", options.address, has_tls=options.tls is not None, hint="Turn it on: --tls-cert")
    listeners: list[tuple[grpc.aio.ServerInterceptor, str, ListenerTls | None]]
    listeners = [(AuthInterceptor(tokens), options.address, options.tls)]
    if options.member_address:
        if options.member_tls is None or not options.member_tls.client_authority or members is None:
            raise TunefleetError.field("member-address", "needs the certificates of the fleet")
        listeners.append((MemberInterceptor(members), options.member_address, options.member_tls))
    await asyncio.to_thread(refuse_newer, options.state_folder / "coordinator.db", HEAD_REVISION)
    root = options.state_folder / "artifacts"
    keep_freed_memory()
    with hold_file(options.state_folder / "blobs.lock", "blobs process"):
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        watermark = Watermark(folder=root, least_bytes=options.least_free_bytes)
        handovers = Handovers(options.state_folder / "blobs.sock")
        servicer = BlobServicer(BlobStore(root), watermark, handovers)
        servers: list[grpc.aio.Server] = []
        try:
            for admission, address, tls in listeners:
                server = grpc.aio.server(
                    interceptors=[ErrorInterceptor(), admission], options=[*_OPTIONS, *listener_options(tls)]
                )
                servers.append(server)
                server.add_generic_rpc_handlers((blob_handlers(servicer),))
                listen(server, address, tls, who="The blobs process")
                await server.start()
                _LOG.info("serving blobs at %s", address)
            await handovers.serve()
        finally:
            # A server that is not stopped hangs the interpreter's exit.
            await asyncio.gather(*(server.stop(grace=0.5) for server in servers))
