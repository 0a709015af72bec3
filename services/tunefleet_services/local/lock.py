"""One holder per state folder. The lock is the kernel's, so it never outlives its holder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["hold_state_folder"]


@contextmanager
def hold_state_folder(folder: Path) -> Generator[None]:
    """Hold a state folder until the block ends.

    Raises:
        TunefleetError: STATE_FOLDER_HELD, saying who holds it since when; FIELD_INVALID
            if the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(folder / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TunefleetError.field(
            "state",
            f"'{folder}' cannot be the state folder: {error.strerror or error}",
            hint="Name a folder that you may write to: tunefleet up --state DIR",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _held(folder, os.pread(descriptor, 4096, 0)) from None
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _held(folder: Path, content: bytes) -> TunefleetError:
    try:
        holder = json.loads(content)
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        metadata = {"pid": str(holder["pid"]), "host": str(holder["host"])}
        hint = f"Use that fleet, or stop it with: kill {holder['pid']}"
    except (ValueError, KeyError):
        who, metadata, hint = "another process", {}, "Stop it, or choose another folder with --state."
    return TunefleetError(
        Reason.STATE_FOLDER_HELD,
        f"{folder} is held by {who}.",
        hint=f"{hint}. Another fleet needs another folder: tunefleet up --state DIR",
        metadata=metadata,
    )
