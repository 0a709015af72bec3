"""One channel to the coordinator, with the service's token or certificate, and patience.

A coordinator that restarts must not stop a run: calls that may be repeated are
repeated until they are answered, with a bounded back-off.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc.aio

from tunefleet.artifact.v1 import artifact_service_pb2_grpc as artifact_grpc
from tunefleet.fleet.v1 import fleet_service_pb2_grpc as fleet_grpc
from tunefleet_core.artifacts import ArtifactStore, BlobStore
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import ChannelTls, error_from_rpc, open_channel
from tunefleet_services.control.remote_blobs import RemoteBlobs

__all__ = ["Connection"]

_LOG = logging.getLogger(__name__)
_CALL_SECONDS = 20.0
_FIRST_WAIT_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 2.0
_REMOTE = "grpcs://"
_PASSING = (Reason.UNAVAILABLE, Reason.TIME_LIMIT, Reason.DISK_FULL)

Response = TypeVar("Response")


class Connection:
    """Stubs of the coordinator's service listener.

    Args:
        address: `host:port`.
        token: The token of services of the coordinator's machine; empty with certificates.
        tls: Returns what secures the channel, as it is now; None: it stays on this machine.
    """

    fleet: fleet_grpc.FleetServiceAsyncStub
    artifacts: artifact_grpc.ArtifactServiceAsyncStub

    def __init__(self, address: str, token: str = "", *, tls: Callable[[], ChannelTls] | None = None) -> None:
        self.address = address
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self.tls = tls
        self.closed = threading.Event()
        """Set when the service ends, for work in threads."""
        self._channels: list[grpc.aio.Channel] = []
        self.reopen()

    def reopen(self) -> None:
        """Make further calls on a new channel; those under way end on the one before."""
        channel = open_channel(self.address, None if self.tls is None else self.tls())
        self._channels.append(channel)
        self.fleet = fleet_grpc.FleetServiceStub(channel)  # pyright: ignore[reportAttributeAccessIssue]  # one class, two faces
        self.artifacts = artifact_grpc.ArtifactServiceStub(channel)  # pyright: ignore[reportAttributeAccessIssue]  # one class, two faces

    async def close(self) -> None:
        """Close every channel."""
        self.closed.set()
        for channel in self._channels:
            await channel.close()

    def store(self, uri: str) -> ArtifactStore:
        """Return the artifact store that a welcome names.

        Raises:
            TunefleetError: FIELD_INVALID for an address of another kind.
        """
        if self.tls is not None and uri.startswith(_REMOTE):
            return RemoteBlobs(uri.removeprefix(_REMOTE), self.tls, self.closed)
        return BlobStore.from_uri(uri)

    async def patiently(self, call: Callable[[float], Awaitable[Response]]) -> Response:
        """Repeat an idempotent call until the coordinator answers.

        `call` gets the deadline in seconds. Raises TunefleetError for every
        answer but UNAVAILABLE, a missed deadline, and a full disk over there,
        which a person will mend: until then the work goes on.
        """
        wait = _FIRST_WAIT_SECONDS
        while True:
            try:
                return await call(_CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                typed = error_from_rpc(error, f"The coordinator at {self.address}")
                if typed.reason not in _PASSING:
                    raise typed from error
                _LOG.log(
                    logging.WARNING if typed.reason is Reason.DISK_FULL else logging.DEBUG,
                    "the coordinator cannot take a call, next try in %.2f s: %s",
                    wait,
                    typed.message,
                )
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT_SECONDS)

    def typed(self, error: grpc.aio.AioRpcError) -> TunefleetError:
        """Return the typed form of a failed call."""
        return error_from_rpc(error, f"The coordinator at {self.address}")
