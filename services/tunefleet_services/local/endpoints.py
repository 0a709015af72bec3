"""Where a local fleet listens, kept in its state folder so that clients find it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tunefleet_core.artifacts import write_whole_file
from tunefleet_core.ports import free_ports, is_free_port

__all__ = ["Endpoints", "choose_endpoints"]

_FILE = "endpoints.json"
_LOCAL_HOST = "127.0.0.1"
_NAMES = ("user", "service", "gateway", "blobs", "inference")
_MEMBER_NAMES = ("member", "member_blobs", "relay")
"""Listeners for services of other machines, which a fleet with TLS has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Addresses that the processes of a local fleet bind."""

    user: str
    service: str
    gateway: str
    blobs: str
    inference: str
    member: str = ""
    member_blobs: str = ""
    relay: str = ""

    def taken(self) -> list[str]:
        """Return the addresses of IPv4 that nobody can listen at now."""
        addresses = (getattr(self, name) for name in (*_NAMES, *_MEMBER_NAMES))
        parts = (address.rpartition(":") for address in addresses if address.count(":") == 1)
        return [f"{host}:{port}" for host, _, port in parts if not is_free_port(host, int(port))]

    def write(self, state_folder: Path, *, host: str = "", authority: str = "") -> None:
        """Publish them, atomically.

        Args:
            state_folder: Where.
            host: What programs of this machine call it; empty: as it is bound.
            authority: File of the folder that certificates are checked by; empty: there is no TLS.
        """

        def called(address: str) -> str:
            return f"{host}:{address.rpartition(':')[2]}" if host else address

        content = {
            "user": called(self.user),
            "service": self.service,
            "gateway": f"{'https' if authority else 'http'}://{called(self.gateway)}",
            "blobs": called(self.blobs),
            "inference": called(self.inference),
        }
        if authority:
            content |= {
                "authority": authority,
                "member": self.member,
                "member_blobs": self.member_blobs,
                "relay": self.relay,
            }
        write_whole_file(state_folder / _FILE, json.dumps(content, indent=1).encode() + b"\n")


def choose_endpoints(state_folder: Path, host: str, port: int, *, takes_members: bool = False) -> Endpoints:
    """Return the addresses of the last time where they are still free, else free ones.

    `port` is the first of five, or of eight if services of other machines are taken; 0 leaves the choice.
    Services of this machine have a listener of loopback alone.
    """
    names = (*_NAMES, *_MEMBER_NAMES) if takes_members else _NAMES
    hosts = {name: _LOCAL_HOST if takes_members and name == "service" else host for name in names}
    if port:
        return Endpoints(**{name: f"{hosts[name]}:{port + number}" for number, name in enumerate(names)})
    known = _known(state_folder)
    ports: list[int] = []
    for name in names:
        old = known.get(name, 0)
        is_kept = old and old not in ports and is_free_port(hosts[name], old)
        ports += [old] if is_kept else free_ports(host=hosts[name], taken=ports)
    return Endpoints(**{name: f"{hosts[name]}:{number}" for name, number in zip(names, ports, strict=True)})


def _known(state_folder: Path) -> dict[str, int]:
    try:
        content = json.loads((state_folder / _FILE).read_text())
        return {
            name: int(str(address).rpartition(":")[2])
            for name, address in content.items()
            if name != "authority"
        }
    except (FileNotFoundError, ValueError, AttributeError):
        return {}
