"""Hosts that wait for work with their imports done.

A run takes a host for good: one attempt, one host. Audits borrow the waiting
host and give it back. The next one warms while the first works.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from tunefleet.backend.v1 import backend_service_pb2 as pb
from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.backend.v1.run_pb2 import RankProgram, TrackerProgram
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.errors import TunefleetError
from tunefleet_core.worker.marker import end_marked
from tunefleet_services.hosts.backends import BackendDirectory
from tunefleet_services.hosts.host import Host, start_host
from tunefleet_services.hosts.rank_parents import RankParents

__all__ = ["HostPool"]

_LOG = logging.getLogger(__name__)
_LONGEST_WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Missing:
    """A host that should wait and does not: when to try next, by the monotonic clock, and after how long."""

    due: float
    wait: float


class HostPool:
    """At most one waiting host per backend."""

    def __init__(
        self, directory: BackendDirectory, log_folder: Path, *, lease_seconds: float, warm: bool
    ) -> None:
        self._directory = directory
        self._log_folder = log_folder
        self._lease_seconds = lease_seconds
        self._warm = warm
        self._parents = RankParents(log_folder)
        self._waiting: dict[str, Host] = {}
        self._missing: dict[str, _Missing] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def take(self, backend: str) -> Host:
        """Return a host for one run: the waiting one if there is one."""
        async with self._lock(backend):
            host = self._waiting.pop(backend, None)
            if host is not None and host.record.is_alive:
                return host
            if host is not None:
                await _end(host)
            return await self._start(backend)

    @asynccontextmanager
    async def borrow(self, backend: str) -> AsyncGenerator[Host]:
        """Yield the waiting host for an audit; nobody takes it meanwhile."""
        async with self._lock(backend):
            yield await self._ensure(backend)

    def program_of(self, backend: str) -> RankProgram:
        """Return how a rank of a backend is started on this machine.

        Raises:
            TunefleetError: BACKEND_NOT_INSTALLED.
        """
        installed, environment = self._directory.find(backend)
        return RankProgram(python=environment.python, rank_entry=installed.manifest.rank_entry)

    def can_save(self, backend: str) -> bool:
        """Return whether runs of a backend can save their exact state."""
        try:
            installed, _ = self._directory.find(backend)
        except TunefleetError:
            return True  # it was removed while it runs: ask it
        return Capability.CAPABILITY_CHECKPOINT_RESUME in installed.manifest.capabilities

    def trackers_of(self, spec: JobSpec, folder: Path) -> list[TrackerProgram]:
        """Return how the trackers of a job are started on this machine; who is not there has no program.

        Args:
            spec: The job.
            folder: Where they keep what they keep on this host.
        """
        programs: list[TrackerProgram] = []
        for tracker in spec.tracking:
            program = TrackerProgram(tracker=tracker, folder=str(folder))
            found = self._directory.find_tracker(tracker.name)
            if found is not None:
                installed, environment = found
                program.python, program.entry = environment.python, installed.manifest.tracker_entry
            programs.append(program)
        return programs

    async def refill(self, backend: str) -> None:
        """Have a host wait for the next run, if the backend wants to be kept warm.

        One that does not start is tried again by `keep_alive`, ever more seldom.
        """
        try:
            installed, _ = self._directory.find(backend)
            if self._warm and installed.manifest.keep_warm:
                async with self._lock(backend):
                    await self._ensure(backend)
        except TunefleetError as error:
            before = self._missing.get(backend)
            wait = min(2 * before.wait, _LONGEST_WAIT_SECONDS) if before else self._lease_seconds / 4
            self._missing[backend] = _Missing(due=time.monotonic() + wait, wait=wait)
            _LOG.warning("no host of %s waits, next try in %.1f s: %s", backend, wait, error.message)
        else:
            self._missing.pop(backend, None)

    async def keep_alive(self) -> None:
        """Tell waiting hosts that their service lives, and replace those that ended; runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell_waiting(), name="tell-waiting-hosts")
            group.create_task(self._make_good(), name="replace-waiting-hosts")

    async def _tell_waiting(self) -> None:
        while True:
            for backend, host in list(self._waiting.items()):
                try:
                    await host.stub.GetBackend(pb.GetBackendRequest(), timeout=5)
                except grpc.aio.AioRpcError:
                    if not host.record.is_alive and self._waiting.get(backend) is host:
                        del self._waiting[backend]
                        self._missing[backend] = _Missing(due=0.0, wait=self._lease_seconds / 8)
                        await _end(host)
            await asyncio.sleep(self._lease_seconds / 4)

    async def _make_good(self) -> None:
        """Apart from the telling: a start takes seconds, and the other hosts must hear of us meanwhile."""
        while True:
            for backend, missing in list(self._missing.items()):
                if time.monotonic() >= missing.due:
                    await self.refill(backend)
            await asyncio.sleep(self._lease_seconds / 4)

    async def close(self) -> None:
        """End every waiting host."""
        hosts, self._waiting = list(self._waiting.values()), {}
        async with asyncio.TaskGroup() as group:
            for host in hosts:
                group.create_task(_end(host))
        await self._parents.close()

    def _lock(self, backend: str) -> asyncio.Lock:
        return self._locks.setdefault(backend, asyncio.Lock())

    async def _ensure(self, backend: str) -> Host:
        host = self._waiting.get(backend)
        if host is not None and host.record.is_alive:
            return host
        if host is not None:
            await _end(host)
        self._waiting[backend] = await self._start(backend)
        return self._waiting[backend]

    async def _start(self, backend: str) -> Host:
        installed, environment = self._directory.find(backend)
        is_warm = self._warm and installed.manifest.keep_warm
        return await start_host(
            backend,
            environment,
            log_folder=self._log_folder,
            lease_seconds=self._lease_seconds,
            warm=is_warm,
            rank_parent=await self._parents.socket_of(installed, environment) if is_warm else "",
        )


async def _end(host: Host) -> None:
    """End a host and what it started, whether it lives or has died, and remove its socket."""
    await asyncio.to_thread(end_marked, host.record.mark)
    await asyncio.to_thread(host.record.remove_sockets)
    await host.close()
