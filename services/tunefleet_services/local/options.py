"""What `tunefleet up` was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tunefleet_core.rpc import is_loopback

__all__ = ["EVERY_ADDRESS", "UpOptions"]

EVERY_ADDRESS = ("0.0.0.0", "::", "[::]")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """How to start a local fleet."""

    state_folder: Path
    host: str = "127.0.0.1"
    port: int = 0
    trainers: int = 1
    servers: int = 1
    """Each runs engines of its own; a processor serves one replica of a model per server."""
    lease_seconds: float = 10.0
    stop_seconds: float = 60.0
    """How long a stop waits for jobs to save their state; 0: not at all."""
    warm: bool = True
    tls: bool = False
    """Ask for TLS on loopback too; beyond it, it is always on."""
    public_names: tuple[str, ...] = ()
    """What other machines call this one; the first is told to them."""
    tls_cert: Path | None = None
    """The operator's own certificate for people; None: of the fleet's own authority."""
    tls_key: Path | None = None
    tls_ca: Path | None = None
    """What people check it by."""
    gateway_options: tuple[str, ...] = ()
    """Further options of the gateway's command, such as `("--requests-at-once", "8")`."""
    announce: Callable[[str], None] = print
    """Told one line of text for people at each step of the start."""

    @property
    def has_tls(self) -> bool:
        """Whether listeners have TLS, and services of other machines may join."""
        return self.tls or not is_loopback(f"{self.host}:1")

    @property
    def told_host(self) -> str:
        """What other machines call this one."""
        return self.public_names[0] if self.public_names else self.host

    @property
    def local_host(self) -> str:
        """What programs of this machine call the listeners for people; empty: as they are bound."""
        if self.tls_cert is not None:
            return self.told_host  # a certificate of the operator's hardly names loopback
        return "127.0.0.1" if self.host in EVERY_ADDRESS else ""
