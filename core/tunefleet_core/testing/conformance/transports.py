"""Open a backend over one transport, and end what was started for it."""

from __future__ import annotations

import asyncio
import os
import tempfile
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tunefleet.backend.v1.backend_service_pb2 import GetBackendRequest
from tunefleet_core.plugins import find_backend
from tunefleet_core.rpc import open_channel
from tunefleet_core.testing.conformance.calls import Calls, ObjectCalls, Refused, WireCalls
from tunefleet_core.testing.conformance.profile import Profile, Transport
from tunefleet_core.testing.rank_parents import rank_parent_of
from tunefleet_core.worker.backend_host import BackendHost
from tunefleet_core.worker.marker import end_marked, marked_environment, marked_processes
from tunefleet_core.worker.servicer import BackendServicer

__all__ = ["Worker", "open_transport", "worker_process"]

_START_SECONDS = 120.0
_POLL_SECONDS = 0.05
_LEASE_SECONDS = 600.0  # between two tests nobody calls; only the test of the lease wants a short one


@dataclass(slots=True, kw_only=True)
class Worker:
    """A worker process that the kit has started."""

    calls: Calls
    process: asyncio.subprocess.Process
    mark: str
    folder: Path

    def printed(self) -> str:
        """Return what the worker wrote to its standard output."""
        return (self.folder / "stdout").read_text(errors="replace")

    def log(self) -> str:
        """Return the end of what it wrote to standard error."""
        return (self.folder / "stderr").read_text(errors="replace")[-3000:]

    def descendants(self) -> dict[int, str]:
        """Return its live processes without itself: pid and command line."""
        found: dict[int, str] = {}
        for process in marked_processes(self.mark):
            if process.pid != self.process.pid:
                with suppress(psutil.NoSuchProcess):
                    found[process.pid] = " ".join(process.cmdline())
        return found


@asynccontextmanager
async def open_transport(profile: Profile, transport: Transport) -> AsyncGenerator[Calls]:
    """Yield calls to the backend; what was started for them ends with the block."""
    if transport is Transport.OBJECT:
        async with _object(profile) as calls:
            yield calls
    elif transport is Transport.ENDPOINT:
        channel = open_channel(profile.endpoint.replace("unix://", "unix:"))
        try:
            yield WireCalls(channel)
        finally:
            await channel.close()
    else:
        async with worker_process(profile) as worker:
            yield worker.calls


@asynccontextmanager
async def worker_process(
    profile: Profile, *, lease_seconds: float = _LEASE_SECONDS
) -> AsyncGenerator[Worker]:
    """Start a worker of its own, wait until it answers, end everything it started."""
    folder = Path(tempfile.mkdtemp(prefix="tfc-", dir="/tmp"))  # paths of unix sockets are short
    mark = uuid.uuid4().hex
    socket = folder / "s"
    with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *_command(profile, socket, lease_seconds),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=marked_environment(mark),
            start_new_session=True,
        )
    channel = open_channel(f"unix:{socket}")
    worker = Worker(calls=WireCalls(channel), process=process, mark=mark, folder=folder)
    try:
        await _await_answer(worker, socket)
        yield worker
    finally:
        await channel.close()
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await asyncio.to_thread(end_marked, mark, grace_seconds=0.0)
        await asyncio.to_thread(_remove, folder)


def _command(profile: Profile, socket: Path, lease_seconds: float) -> list[str]:
    places = {"socket": str(socket), "lease_seconds": str(lease_seconds), "owner_pid": str(os.getpid())}
    if profile.command:
        return [part.format(**places) for part in profile.command]
    arguments = ["--backend", profile.backend, "--socket", places["socket"]]
    arguments += ["--lease-seconds", places["lease_seconds"], "--owner-pid", places["owner_pid"]]
    if parent := rank_parent_of(find_backend(profile.backend), profile.python):
        arguments += ["--rank-parent", parent]
    return [profile.python, "-m", "tunefleet_core.worker.host", *arguments]


async def _await_answer(worker: Worker, socket: Path) -> None:
    async with asyncio.timeout(_START_SECONDS):
        while True:
            if worker.process.returncode is not None:
                raise AssertionError(
                    f"the worker ended with exit code {worker.process.returncode}:\n{worker.log()}"
                )
            if socket.exists():
                with suppress(Refused):
                    await worker.calls.unary("GetBackend", GetBackendRequest())
                    return
            await asyncio.sleep(_POLL_SECONDS)


@asynccontextmanager
async def _object(profile: Profile) -> AsyncGenerator[Calls]:
    manifest = find_backend(profile.backend)
    async with asyncio.TaskGroup() as group:
        host = BackendHost(
            manifest,
            lease_seconds=_LEASE_SECONDS,
            owner_pid=os.getppid(),
            group=group,
            rank_parent=rank_parent_of(manifest, profile.python),
        )
        try:
            yield ObjectCalls(BackendServicer(host))
        finally:
            await host.end()


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
