"""Where a local fleet listens, kept in its state folder so that clients find it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tunefleet_core.artifacts import write_whole_file
from tunefleet_core.ports import free_ports, is_free_port

__all__ = ["Endpoints", "choose_endpoints"]

_FILE = "endpoints.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Addresses of a local fleet."""

    user: str
    service: str
    gateway: str
    blobs: str
    inference: str

    def write(self, state_folder: Path) -> None:
        """Publish them, atomically."""
        content = {
            "user": self.user,
            "service": self.service,
            "gateway": f"http://{self.gateway}",
            "blobs": self.blobs,
            "inference": self.inference,
        }
        write_whole_file(state_folder / _FILE, json.dumps(content, indent=1).encode() + b"\n")


def choose_endpoints(state_folder: Path, host: str, port: int) -> Endpoints:
    """Return the addresses of the last time where they are still free, else free ones.

    `port` is the first of five; 0 leaves the choice.
    """
    names = ("user", "service", "gateway", "blobs", "inference")
    if port:
        return Endpoints(**{name: f"{host}:{port + number}" for number, name in enumerate(names)})
    known = _known(state_folder)
    ports: list[int] = []
    for name in names:
        old = known.get(name, 0)
        is_kept = old and old not in ports and is_free_port(host, old)
        ports += [old] if is_kept else free_ports(host=host, taken=ports)
    return Endpoints(**{name: f"{host}:{number}" for name, number in zip(names, ports, strict=True)})


def _known(state_folder: Path) -> dict[str, int]:
    try:
        content = json.loads((state_folder / _FILE).read_text())
        return {name: int(str(address).rpartition(":")[2]) for name, address in content.items()}
    except (FileNotFoundError, ValueError, AttributeError):
        return {}
