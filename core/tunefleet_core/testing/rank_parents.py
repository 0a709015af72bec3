"""What rank processes of tests are forked from: one parent a backend, gone with the tests."""

from __future__ import annotations

import atexit
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet_core.worker.marker import marked_environment
from tunefleet_core.worker.rank_request import listen, parent_command

__all__ = ["rank_parent", "rank_parent_of"]

_LAST_SECONDS = 5.0
_sockets: dict[tuple[str, str], str] = {}


def rank_parent_of(manifest: BackendManifest, python: str) -> str:
    """Return the socket of the parent of a backend's rank processes; empty: they are started one by one."""
    if not manifest.forks_ranks or sys.platform != "linux":
        return ""
    return rank_parent(manifest.rank_entry, python)


def rank_parent(entry: str, python: str = sys.executable) -> str:
    """Return the socket of a parent that has imported what a rank needs, or is about to."""
    if (python, entry) not in _sockets:
        folder = Path(tempfile.mkdtemp(prefix="tfp-", dir="/tmp"))  # paths of unix sockets are short
        with listen(folder / "s") as listener:
            process = subprocess.Popen(
                parent_command(python, entry, listener.fileno()),
                stdin=subprocess.PIPE,
                env=marked_environment(uuid.uuid4().hex),
                start_new_session=True,
                pass_fds=(listener.fileno(),),
            )
        atexit.register(_end, process, folder)
        _sockets[python, entry] = str(folder / "s")
    return _sockets[python, entry]


def _end(process: subprocess.Popen[bytes], folder: Path) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(timeout=_LAST_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    (folder / "s").unlink(missing_ok=True)
    folder.rmdir()
