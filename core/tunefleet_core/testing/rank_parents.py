"""What rank processes of tests are forked from: one parent a backend, gone with the tests."""

from __future__ import annotations

import atexit
import subprocess
import sys
import tempfile
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet_core.worker.marker import marked_environment
from tunefleet_core.worker.rank_request import listen, own_environment, parent_command

__all__ = ["rank_parent", "rank_parent_of"]

_LAST_SECONDS = 5.0
_parents: dict[tuple[str, str], _Parent] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parent:
    process: subprocess.Popen[bytes]
    socket: Path
    environment: dict[str, str]


def rank_parent_of(manifest: BackendManifest, python: str) -> str:
    """Return the socket of the parent of a backend's rank processes; empty: they are started one by one."""
    if not manifest.forks_ranks or sys.platform != "linux":
        return ""
    return rank_parent(manifest.rank_entry, python)


def rank_parent(entry: str, python: str = sys.executable) -> str:
    """Return the socket of a parent that has imported what a rank needs, or is about to."""
    environment = own_environment()
    parent = _parents.get((python, entry))
    if parent is None or parent.environment != environment:  # libraries read it when they are imported
        if parent is not None:
            _end(parent)
        folder = Path(tempfile.mkdtemp(prefix="tfp-", dir="/tmp"))  # paths of unix sockets are short
        with listen(folder / "s") as listener:
            process = subprocess.Popen(
                parent_command(python, entry, listener.fileno()),
                stdin=subprocess.PIPE,
                env=marked_environment(uuid.uuid4().hex),
                start_new_session=True,
                pass_fds=(listener.fileno(),),
            )
        parent = _Parent(process=process, socket=folder / "s", environment=environment)
        atexit.register(_end, parent)
        _parents[python, entry] = parent
    return str(parent.socket)


def _end(parent: _Parent) -> None:
    if parent.process.stdin is not None:
        parent.process.stdin.close()
    try:
        parent.process.wait(timeout=_LAST_SECONDS)
    except subprocess.TimeoutExpired:
        parent.process.kill()
        parent.process.wait()
    parent.socket.unlink(missing_ok=True)
    with suppress(FileNotFoundError):  # ended before
        parent.socket.parent.rmdir()
