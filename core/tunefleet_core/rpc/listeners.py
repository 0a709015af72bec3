"""Where servers listen: plain on this machine, with TLS beyond it, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc
import grpc.aio

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc.channels import is_loopback

__all__ = ["ListenerTls", "listen", "listener_options", "read_pem", "require_tls"]

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.so_reuseport", 0),  # a port that is taken must be an error
    # Callers of other machines ask every ten seconds whether the connection lives; see `LIVENESS_OPTIONS`.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
]
_LIVENESS_OPTIONS: list[tuple[str, int]] = [
    # A caller of another machine can be gone without a word, and its calls with it: an answer that a relay
    # carries would be waited for. As callers ask, but for the pause before.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerTls:
    """What a listener shows, all PEM.

    Attributes:
        certificate: Its certificate, and those that lead to its authority.
        key: Its private key.
        client_authority: If given, callers must show a certificate of this authority.
    """

    certificate: bytes
    key: bytes
    client_authority: bytes = b""

    @classmethod
    def read(cls, certificate: Path, key: Path, client_authority: Path | None = None) -> Self:
        """Read the files. Raises FIELD_INVALID."""
        return cls(
            certificate=read_pem(certificate, "tls-cert"),
            key=read_pem(key, "tls-key"),
            client_authority=read_pem(client_authority, "authority") if client_authority else b"",
        )

    def credentials(self) -> grpc.ServerCredentials:
        """Return them as gRPC takes them."""
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)],
            root_certificates=self.client_authority or None,
            require_client_auth=bool(self.client_authority),
        )


def listener_options(tls: ListenerTls | None) -> list[tuple[str, int]]:
    """Return the options of a server that listens; with TLS, whoever calls may be on another machine."""
    return _OPTIONS if tls is None else [*_OPTIONS, *_LIVENESS_OPTIONS]


def require_tls(field: str, address: str, *, has_tls: bool, hint: str) -> None:
    """Refuse to listen beyond this machine in the clear.

    Raises:
        TunefleetError: FIELD_INVALID, naming the option.
    """
    if not has_tls and not is_loopback(address):
        raise TunefleetError.field(
            field, f"'{address}' is reachable from other machines, which needs TLS", hint=hint
        )


def listen(server: grpc.aio.Server, address: str, tls: ListenerTls | None, *, who: str) -> int:
    """Listen at an address and return the port. The caller has made sure of TLS where it is needed.

    Args:
        server: Not yet started.
        address: `host:port`; port 0 takes a free one.
        tls: None: plain.
        who: As a message begins: `The coordinator`.

    Raises:
        TunefleetError: UNAVAILABLE if the port is taken, or not allowed.
    """
    try:
        if tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, tls.credentials())
    except RuntimeError:
        raise TunefleetError(
            Reason.UNAVAILABLE,
            f"{who} cannot listen at {address}: the port is taken, or not allowed.",
            hint="Stop what listens there, or choose another port.",
            metadata={"address": address},
        ) from None


def read_pem(path: Path, field: str) -> bytes:
    """Return a file of certificates or a key.

    Raises:
        TunefleetError: FIELD_INVALID, naming the option.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TunefleetError.field(field, f"{path} cannot be read: {error.strerror}") from error
    if b"-----BEGIN " not in content:
        raise TunefleetError.field(field, f"{path} holds nothing in PEM form")
    return content
