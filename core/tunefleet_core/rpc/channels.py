"""Channels: plain on this machine, TLS beyond it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Self

import grpc
import grpc.aio

__all__ = ["LIVENESS_OPTIONS", "MESSAGE_OPTIONS", "ChannelTls", "is_loopback", "open_channel"]

_MAX_MESSAGE_BYTES = 64 << 20

MESSAGE_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
]

LIVENESS_OPTIONS: list[tuple[str, int]] = [
    # A connection to another machine can die without a word: an address that changed, a router that was
    # started again. Without these, calls wait on it for some fifteen minutes.
    ("grpc.keepalive_time_ms", 10_000),
    # Long enough for a question that waits behind megabytes on their way over a slow line.
    ("grpc.keepalive_timeout_ms", 20_000),
    # What gRPC 1.85 goes by in place of the one above; it is a minute unless it is told.
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
]
"""Of channels with TLS. Listeners allow it: see `listeners`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelTls:
    """What secures a channel, all PEM.

    Attributes:
        authority: What the certificate of the other side is checked by.
        certificate: The own certificate, where the other side asks for one.
        key: Its private key.
    """

    authority: bytes
    certificate: bytes = b""
    key: bytes = b""

    @classmethod
    def of_authority(cls, authority: bytes) -> Self | None:
        """Return what checks the other side alone; None for no authority, which means no TLS."""
        return cls(authority=authority) if authority else None

    def credentials(self) -> grpc.ChannelCredentials:
        """Return them as gRPC takes them."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.authority,
            private_key=self.key or None,
            certificate_chain=self.certificate or None,
        )


def is_loopback(address: str) -> bool:
    """Return whether `host:port` or `unix:path` stays on this machine."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_channel(address: str, tls: ChannelTls | None = None) -> grpc.aio.Channel:
    """Open a channel: with TLS if that is given, else a plain one to a loopback address or unix socket.

    Raises:
        ValueError: the address leaves the machine and there is no TLS.
    """
    options: list[tuple[str, int]] = [
        *MESSAGE_OPTIONS,
        # A try costs nothing here, and a peer that comes back must hear from us within a lease term.
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 200),
        # Whatever its name says, gRPC gives a connection that long to be greeted; a busy peer needs it.
        ("grpc.min_reconnect_backoff_ms", 10_000),
        ("grpc.use_local_subchannel_pool", 1),  # one broken channel must not slow its twin
    ]
    if is_loopback(address):
        # A proxy from the environment makes loopback UNAVAILABLE.
        options.append(("grpc.enable_http_proxy", 0))
    elif tls is None:
        raise ValueError(
            f"{address} is not on this machine: a plain channel would show the token to the network"
        )
    if tls is not None:
        options += LIVENESS_OPTIONS
        return grpc.aio.secure_channel(address, tls.credentials(), options=options)
    return grpc.aio.insecure_channel(address, options=options)
