"""What every attempt of a trainer shares."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tunefleet.fleet.v1.fleet_pb2 import AttemptStatus
from tunefleet_core.artifacts import ArtifactStore
from tunefleet_services.control import ArtifactFolders, Connection
from tunefleet_services.control.data_files import DataFiles
from tunefleet_services.hosts import Host, HostPool, HostRecord, adopt_host

__all__ = ["TrainerContext"]


@dataclass(slots=True, kw_only=True)
class TrainerContext:
    """The trainer's connection, folders, hosts and figures."""

    connection: Connection
    runs: Path
    models_folder: Path
    tracking: Path
    """Where trackers keep what they keep on this host."""
    pool: HostPool
    lease_seconds: float
    threads: int
    hardware: str
    report: Callable[[AttemptStatus], None]
    refill: Callable[[str], None]
    models: ArtifactFolders = field(init=False)
    """Whole models of the artifact store that are bases of runs."""
    data: DataFiles = field(init=False)
    """Files of rows that lie in the artifact store."""
    _store: str = ""
    _welcomed: asyncio.Event = field(default_factory=asyncio.Event)
    _hosts: dict[str, Host] = field(default_factory=dict[str, Host])

    def __post_init__(self) -> None:
        self.models = ArtifactFolders(self.connection, self.blobs, self.models_folder)
        self.data = DataFiles(self.blobs, self.models_folder.parent / "data")

    def welcomed(self, artifact_store: str) -> None:
        """Learn where artifacts go."""
        self._store = artifact_store
        self._welcomed.set()

    async def blobs(self) -> ArtifactStore:
        """Return the artifact store, once the coordinator has named it.

        An adopted run may have something to store before its trainer is attached again.
        """
        await self._welcomed.wait()
        return self.connection.store(self._store)

    async def take(self, backend: str) -> Host:
        """Return a host for one run."""
        host = await self.pool.take(backend)
        self._hosts[host.record.mark] = host
        return host

    async def adopt(self, record: HostRecord) -> Host | None:
        """Return a host of an earlier life of this trainer, if it still lives."""
        return await adopt_host(record)

    async def forget_host(self, record: HostRecord) -> None:
        """Reap a host whose processes were ended."""
        host = self._hosts.pop(record.mark, None)
        if host is not None:
            await host.close()
        await asyncio.to_thread(record.remove_sockets)

    def first_step_done(self, backend: str) -> None:
        """The run works: the next host may warm now without slowing its start."""
        self.refill(backend)
