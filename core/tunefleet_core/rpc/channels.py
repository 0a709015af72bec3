"""Channels with the options that loopback and unix sockets need."""

from __future__ import annotations

import ipaddress

import grpc
import grpc.aio

__all__ = ["MESSAGE_OPTIONS", "is_loopback", "open_channel"]

_MAX_MESSAGE_BYTES = 64 << 20

MESSAGE_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
]


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


def open_channel(address: str) -> grpc.aio.Channel:
    """Open a plain channel to a loopback address or unix socket.

    Raises:
        ValueError: the address leaves the machine; that needs TLS.
    """
    if not is_loopback(address):
        raise ValueError(
            f"{address} is not on this machine: a plain channel would show the token to the network"
        )
    options: list[tuple[str, int]] = [
        *MESSAGE_OPTIONS,
        ("grpc.enable_http_proxy", 0),  # a proxy from the environment makes loopback UNAVAILABLE
        # A try costs nothing here, and a peer that comes back must hear from us within a lease term.
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 200),
        # Whatever its name says, gRPC gives a connection that long to be greeted; a busy peer needs it.
        ("grpc.min_reconnect_backoff_ms", 10_000),
        ("grpc.use_local_subchannel_pool", 1),  # one broken channel must not slow its twin
    ]
    return grpc.aio.insecure_channel(address, options=options)
