"""Open channels to the processes of a fleet, and close them together.

The coordinator names further addresses (its blob service, gateways). All are
dialled alike: with the certificate authority that was given, and never in the
clear beyond this machine, because the token travels with every call.
"""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio

from tunefleet_client.errors import failure, typed
from tunefleet_client.state import is_loopback
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import LIVENESS_OPTIONS

__all__ = ["Channels", "read_authority"]

_OPTIONS: list[tuple[str, int]] = [
    # The defaults (1 s to 2 min) would let a restarted coordinator go unnoticed.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A resolved spec carries every tensor's name and the first masked rows.
    ("grpc.max_receive_message_length", 64 << 20),
    # A piece of a blob in one frame instead of 64: a third of what receiving costs.
    ("grpc.http2.max_frame_size", 2 << 20),
    # Two clients in one process are independent: one broken channel must not slow the other.
    ("grpc.use_local_subchannel_pool", 1),
]


class Channels:
    """Channels by address, all secured in one way."""

    def __init__(self, authority: bytes | None) -> None:
        self.authority = authority
        """What certificates are checked by, PEM; None: no TLS."""
        self._credentials = grpc.ssl_channel_credentials(root_certificates=authority) if authority else None
        self._open: dict[str, grpc.aio.Channel] = {}
        self._is_closed = False

    def to(self, address: str) -> grpc.aio.Channel:
        """Return the channel to `host:port`, opening it at the first call.

        Raises:
            InvalidArgument: FIELD_INVALID if the token would travel in the clear.
            FailedPrecondition: STATE_CONFLICT if the client is closed.
        """
        self.require_open()
        channel = self._open.get(address)
        if channel is None:
            channel = self._open[address] = self._new(address)
        return channel

    def require_open(self) -> None:
        """Raise FailedPrecondition (STATE_CONFLICT) if the client is closed."""
        if self._is_closed:
            raise failure(
                Reason.STATE_CONFLICT,
                "This client is closed.",
                hint="Connect again, and call it inside the block.",
            )

    async def close(self) -> None:
        """Close all channels; calls under way end with the error of a closed client."""
        self._is_closed = True
        while self._open:
            _, channel = self._open.popitem()
            await channel.close()

    def _new(self, address: str) -> grpc.aio.Channel:
        options = list(_OPTIONS)
        if is_loopback(address):
            # With http_proxy set, a channel to 127.0.0.1 would go through the proxy and fail.
            options.append(("grpc.enable_http_proxy", 0))
        if self._credentials is not None:
            options += LIVENESS_OPTIONS
            return grpc.aio.secure_channel(address, self._credentials, options=options)
        if not is_loopback(address):
            raise typed(
                TunefleetError.field(
                    "address",
                    f"{address} is not this machine, and without TLS the token could be read on the way.",
                    hint="tunefleet login STRING, or pass the authority of that fleet (ca, TUNEFLEET_CA).",
                )
            )
        return grpc.aio.insecure_channel(address, options=options)


def read_authority(ca: str | Path) -> bytes:
    """Return a certificate authority from a PEM file.

    Raises:
        InvalidArgument: FIELD_INVALID.
    """
    path = Path(ca)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise failure(
            Reason.FIELD_INVALID,
            f"The certificate authority {path} cannot be read: {error.strerror}.",
            hint="Give the PEM file that the coordinator's host has.",
            metadata={"path": str(path)},
        ) from error
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise failure(
            Reason.FIELD_INVALID,
            f"{path} holds no certificate in PEM form.",
            hint="Give the PEM file that the coordinator's host has.",
            metadata={"path": str(path)},
        )
    return content
