"""What every engine and deployment of a server shares."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tunefleet.fleet.v1.fleet_pb2 import DeploymentStatus
from tunefleet.type.v1.device_pb2 import Host as Machine
from tunefleet_core.artifacts import ArtifactStore
from tunefleet_services.control import ArtifactFolders, Connection
from tunefleet_services.hosts import BackendDirectory

__all__ = ["ServerContext"]


@dataclass(slots=True, kw_only=True)
class ServerContext:
    """The server's connection, folders, backends and figures."""

    connection: Connection
    directory: BackendDirectory
    machine: Machine
    work_folder: Path
    lease_seconds: float
    report: Callable[[DeploymentStatus], None]
    relayed_as: str = ""
    """Name under which gateways reach engines through a relay; empty: they dial them."""
    models: ArtifactFolders = field(init=False)
    """Whole models of the artifact store that are served here."""
    _store: ArtifactStore | None = None
    _store_known: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.models = ArtifactFolders(self.connection, self.blobs, self.work_folder / "models")

    @property
    def engines(self) -> Path:
        """Folder of the engines."""
        return self.work_folder / "engines"

    @property
    def deployments(self) -> Path:
        """Folder of what is kept about deployments."""
        return self.work_folder / "deployments"

    @property
    def has_accelerator(self) -> bool:
        """Whether engines run on something else than the CPU."""
        return any(device.kind != "cpu" for device in self.machine.devices)

    def dialled(self, engine: str, address: str) -> str:
        """Return how gateways reach an engine: by its own address, or through this server's relay."""
        return f"relay://{self.relayed_as}/{engine}" if self.relayed_as else address

    def name_store(self, uri: str) -> None:
        """Take in where the coordinator says artifacts lie."""
        self._store = self.connection.store(uri)
        self._store_known.set()

    async def blobs(self) -> ArtifactStore:
        """Return the artifact store; waits until a coordinator has named it."""
        await self._store_known.wait()
        assert self._store is not None  # set before the event
        return self._store
