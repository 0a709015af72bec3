"""One process per lock file. The lock is the kernel's, so it never outlives its holder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["hold_file"]


@contextmanager
def hold_file(file: Path, holder_kind: str) -> Generator[None]:
    """Hold a lock file of a state folder until the block ends.

    Args:
        file: The lock file; made if missing.
        holder_kind: What the holder is called, such as `coordinator`.

    Raises:
        TunefleetError: STATE_FOLDER_HELD, naming the process that holds it.
    """
    folder = file.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 32, 0).decode(errors="replace") or "unknown"
            raise TunefleetError(
                Reason.STATE_FOLDER_HELD,
                f"{folder} is held by the {holder_kind} with process id {pid}.",
                hint=f"Stop it, or use another state folder: kill {pid}",
                metadata={"pid": pid},
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)
