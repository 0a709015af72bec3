"""The processes that rank processes are forked from: one for each backend that wants it."""

from __future__ import annotations

import asyncio
import logging
import sys
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tunefleet.fleet.v1.fleet_pb2 import InstalledBackend
from tunefleet_core.environments import Environment
from tunefleet_core.worker.marker import marked_environment
from tunefleet_core.worker.rank_request import UNFORKABLE, listen, parent_command
from tunefleet_services.hosts.host import socket_folder
from tunefleet_services.hosts.lasting_process import LastingProcess

__all__ = ["RankParents"]

_LOG = logging.getLogger(__name__)
_LAST_SECONDS = 1.0


@dataclass(slots=True, kw_only=True)
class _Parent:
    process: LastingProcess
    socket: Path
    python: str
    log: Path


class RankParents:
    """Starts them when they are first needed, and again when one has died; ends them with the service.

    A run does not depend on one: it ends by itself when its service and its children have gone, and a host
    that finds none starts its rank process itself.
    """

    def __init__(self, log_folder: Path) -> None:
        self._log_folder = log_folder
        self._parents: dict[str, _Parent] = {}
        self._unforkable: set[tuple[str, str]] = set()

    async def socket_of(self, installed: InstalledBackend, environment: Environment) -> str:
        """Return where a host asks for its rank processes; empty: it starts them itself."""
        manifest = installed.manifest
        if not manifest.forks_ranks or sys.platform != "linux":
            return ""
        parent = self._parents.get(manifest.name)
        if parent is not None and (
            parent.process.returncode is not None or parent.python != environment.python
        ):
            del self._parents[manifest.name]
            await self._end(manifest.name, parent)
            parent = None
        if (manifest.name, environment.python) in self._unforkable:
            return ""
        if parent is None:
            parent = await self._start(manifest.name, manifest.rank_entry, environment)
            self._parents[manifest.name] = parent
        return str(parent.socket)

    async def close(self) -> None:
        """End all of them; one that still has children stays until these have ended."""
        parents, self._parents = self._parents, {}
        async with asyncio.TaskGroup() as group:
            for backend, parent in parents.items():
                group.create_task(self._end(backend, parent))

    async def _start(self, backend: str, entry: str, environment: Environment) -> _Parent:
        mark = uuid.uuid4().hex
        socket = socket_folder() / f"{mark[:16]}.sock"
        await asyncio.to_thread(self._log_folder.mkdir, parents=True, exist_ok=True)
        log = self._log_folder / f"{backend}-ranks.log"
        with log.open("ab") as stream, listen(socket) as listener:
            process = LastingProcess(
                parent_command(environment.python, entry, listener.fileno()),
                environment=marked_environment(mark),
                output=stream,
                holds_input=True,
                pass_fds=(listener.fileno(),),
            )
        return _Parent(process=process, socket=socket, python=environment.python, log=log)

    async def _end(self, backend: str, parent: _Parent) -> None:
        if parent.process.returncode == UNFORKABLE:
            self._unforkable.add((backend, parent.python))
            _LOG.warning("rank processes of %s are started one by one, see %s", backend, parent.log)
        parent.process.end_input()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                await parent.process.wait()
        await asyncio.to_thread(parent.socket.unlink, True)
