"""One contract host: a process in a backend's environment, reached by a unix socket.

It gets a session of its own, so that neither Ctrl-C nor the death of the service
takes it along: a restarted service finds it by its record and goes on.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import grpc.aio
import psutil

from tunefleet.backend.v1 import backend_service_pb2 as pb
from tunefleet.backend.v1 import backend_service_pb2_grpc as backend_grpc
from tunefleet_core.environments import Environment
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import open_channel
from tunefleet_core.worker.marker import end_marked, marked_environment
from tunefleet_services.hosts.lasting_process import LastingProcess

__all__ = ["Host", "HostRecord", "adopt_host", "remove_stale_sockets", "socket_folder", "start_host"]

_START_LIMIT_SECONDS = 30.0
_POLL_SECONDS = 0.02
_BIND_TO_LISTEN_SECONDS = 0.1  # a host that starts refuses connections for far less than this
_MAX_SOCKET_PATH = 103  # the shortest limit among our platforms (macOS); Linux has 107
_LONGEST_SOCKET_NAME = len("/0123456789abcdef.d/") + 36  # of an engine that calls its own by a UUID
_LOG_TAIL_LINES = 10
_KEPT_LOGS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRecord:
    """What is kept on disk about a host, enough to find it again."""

    backend: str
    mark: str
    pid: int
    create_time: float
    socket: str
    environment_digest: str

    def to_json(self) -> dict[str, object]:
        """Return the record for a JSON file."""
        return asdict(self)

    @property
    def is_alive(self) -> bool:
        """Whether the very process still lives; a pid alone may be used again."""
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.create_time and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def make_socket_folder(self) -> Path:
        """Make a folder beside the host's own socket for those of an engine that it runs."""
        folder = _beside(Path(self.socket))
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def remove_sockets(self) -> None:
        """Remove its socket and those of its engine: what was killed leaves them. Blocks for a moment."""
        _remove_sockets(Path(self.socket))


@dataclass(slots=True, kw_only=True)
class Host:
    """A live host and the way to call it."""

    record: HostRecord
    channel: grpc.aio.Channel
    stub: backend_grpc.BackendServiceAsyncStub
    process: LastingProcess | None

    async def close(self) -> None:
        """Close the channel and reap the process if it is ours and has ended."""
        await self.channel.close()
        if self.process is not None:
            await self.process.wait()


def socket_folder() -> Path:
    """Return a short private folder for sockets; their path length is limited by the system."""
    folder = Path(tempfile.gettempdir()) / f"tunefleet-{os.getuid()}"
    if len(str(folder)) > _MAX_SOCKET_PATH - _LONGEST_SOCKET_NAME:
        folder = Path("/tmp") / folder.name
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
        raise TunefleetError(
            Reason.PERMISSION_DENIED,
            f"{folder} belongs to somebody else or is open to others.",
            hint=f"Remove it: rm -r {folder}",
        )
    return folder


def remove_stale_sockets() -> None:
    """Remove the sockets of hosts that are gone. Blocks for a moment: run it in a thread."""
    folder = socket_folder()
    silent = [path for path in folder.glob("*.sock") if not _listens(path)]
    if silent:
        time.sleep(_BIND_TO_LISTEN_SECONDS)
    for path in silent:
        if not _listens(path):
            _remove_sockets(path)
    for beside in folder.glob("*.d"):
        if not beside.with_suffix(".sock").exists():  # its host ended in order, and no service was there
            shutil.rmtree(beside, ignore_errors=True)


def _remove_sockets(path: Path) -> None:
    shutil.rmtree(_beside(path), ignore_errors=True)
    path.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_suffix(".d")


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_BIND_TO_LISTEN_SECONDS)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # busy, or not ours to judge
        return True


async def start_host(
    backend: str,
    environment: Environment,
    *,
    log_folder: Path,
    lease_seconds: float,
    warm: bool,
    rank_parent: str = "",
) -> Host:
    """Start a host and wait until it answers.

    Args:
        backend: Which one.
        environment: Where it is installed.
        log_folder: Where what it says is kept.
        lease_seconds: How long it lives without a sign of life of this process.
        warm: Whether it keeps a rank process with its imports done.
        rank_parent: Socket of what forks its rank processes; empty: it starts them itself.

    Raises:
        TunefleetError: BACKEND_FAILED with the last lines of its log.
    """
    mark = uuid.uuid4().hex
    socket_path = socket_folder() / f"{mark[:16]}.sock"
    await asyncio.to_thread(_make_room_for_log, log_folder)
    log = log_folder / f"{backend}-{mark[:8]}.log"
    with log.open("wb") as stream:
        words = [environment.python, "-m", "tunefleet_core.worker.host"]
        words += ["--backend", backend, "--socket", str(socket_path)]
        words += ["--lease-seconds", str(lease_seconds), "--owner-pid", str(os.getpid())]
        words += ["--warm"] if warm else []
        words += ["--rank-parent", rank_parent] if rank_parent else []
        process = LastingProcess(words, environment=marked_environment(mark), output=stream)
    try:
        create_time = psutil.Process(process.pid).create_time()
    except psutil.NoSuchProcess:
        create_time = 0.0
    record = HostRecord(
        backend=backend,
        mark=mark,
        pid=process.pid,
        create_time=create_time,
        socket=str(socket_path),
        environment_digest=environment.digest,
    )
    host = _open(record, process)
    try:
        async with asyncio.timeout(_START_LIMIT_SECONDS):
            await _await_answer(host)
    except BaseException as error:  # a cancel too: nobody else knows this process yet
        await asyncio.shield(_abandon(host))
        if isinstance(error, TimeoutError):
            raise _start_error(backend, log, "did not answer in time") from None
        raise
    if process.returncode is not None:
        await host.close()
        raise _start_error(backend, log, f"ended with exit code {process.returncode}")
    return host


async def adopt_host(record: HostRecord) -> Host | None:
    """Return a host that was started by an earlier life of this service; None if it is gone."""
    if not record.is_alive:
        return None
    host = _open(record, None)
    try:
        await host.stub.GetBackend(pb.GetBackendRequest(), timeout=5)
    except grpc.aio.AioRpcError:
        await host.close()
        return None
    return host


def _open(record: HostRecord, process: LastingProcess | None) -> Host:
    channel = open_channel(f"unix:{record.socket}")
    stub: backend_grpc.BackendServiceAsyncStub = backend_grpc.BackendServiceStub(channel)  # pyright: ignore[reportAssignmentType]  # one class, two faces
    return Host(record=record, channel=channel, stub=stub, process=process)


async def _abandon(host: Host) -> None:
    if host.process is not None:
        host.process.kill()  # it may be too young to carry its mark yet
    await asyncio.to_thread(end_marked, host.record.mark, grace_seconds=0.0)
    await asyncio.to_thread(host.record.remove_sockets)
    await host.close()


async def _await_answer(host: Host) -> None:
    assert host.process is not None  # only called for hosts we started
    while host.process.returncode is None:
        if Path(host.record.socket).exists():
            try:
                await host.stub.GetBackend(pb.GetBackendRequest(), timeout=5)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(_POLL_SECONDS)
            else:
                return
        await asyncio.sleep(_POLL_SECONDS)


def _make_room_for_log(folder: Path) -> None:
    """Make the folder; remove the logs of the hosts that started longest ago."""
    folder.mkdir(parents=True, exist_ok=True)
    logs = sorted(folder.glob("*.log"), key=_written)
    for old in logs[: max(0, len(logs) - _KEPT_LOGS + 1)]:
        old.unlink(missing_ok=True)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another start has made room at the same time
        return 0.0


def _start_error(backend: str, log: Path, what: str) -> TunefleetError:
    lines = log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    return TunefleetError(
        Reason.BACKEND_FAILED,
        f"The contract host of backend '{backend}' {what}: {lines[-1] if lines else 'no message'}",
        hint=f"Read {log}, or reinstall: tunefleet plugins install {backend}",
        metadata={"backend": backend, "log": "\n".join(lines)},
    )
