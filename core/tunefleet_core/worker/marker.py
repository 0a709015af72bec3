"""Find and end every process of an attempt, wherever it hid.

Every process of an attempt inherits a marker in its environment. Process groups
are not enough: a launcher's ranks start sessions of their own and survive a
killed group. The environment is inherited across setsid() and double forks.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import psutil

__all__ = ["FLEET_MARKER", "MARKER", "EndReport", "end_marked", "marked_environment", "marked_processes"]

MARKER = "TUNEFLEET_MARK"
"""Name of the environment variable that marks the processes of an attempt."""

FLEET_MARKER = "TUNEFLEET_FLEET"
"""The same for everything that one `tunefleet up` started, directly or not."""

_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class EndReport:
    """What it took to end the processes of an attempt."""

    ended: int
    killed: int
    seconds: float
    all_gone: bool


def marked_environment(mark: str, *, variable: str = MARKER) -> dict[str, str]:
    """Return an environment that marks a child and everything it starts."""
    return {**os.environ, variable: mark}


def marked_processes(mark: str, *, variable: str = MARKER) -> list[psutil.Process]:
    """Return the live processes that carry a marker, and their children; never the caller."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid in found:
            continue  # a child, and its own children with it: asking for them reads every process of the host
        try:
            if process.environ().get(variable) != mark:
                continue
            members = [process, *process.children(recursive=True)]
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue  # gone meanwhile, a zombie, or another user's: not ours
        found.update({member.pid: member for member in members})
    found.pop(os.getpid(), None)
    return [process for process in found.values() if _is_alive(process)]


def end_marked(
    mark: str, *, variable: str = MARKER, grace_seconds: float = 1.0, limit_seconds: float = 30.0
) -> EndReport:
    """End every marked process: TERM, then KILL after the grace, until none is left.

    Blocks for up to `limit_seconds`: run it in a thread.
    """
    start = time.monotonic()
    seen: set[tuple[int, float]] = set()
    killed: set[tuple[int, float]] = set()
    while (elapsed := time.monotonic() - start) < limit_seconds:
        alive = marked_processes(mark, variable=variable)
        if not alive:
            return EndReport(ended=len(seen), killed=len(killed), seconds=elapsed, all_gone=True)
        for process in alive:
            identity = _identity(process)
            if identity is None:
                continue
            if elapsed >= grace_seconds:
                _signal(process, kill=True)
                killed.add(identity)
            elif identity not in seen:
                _signal(process, kill=False)
            seen.add(identity)
        psutil.wait_procs(alive, timeout=_POLL_SECONDS)
    seconds = time.monotonic() - start
    return EndReport(ended=len(seen), killed=len(killed), seconds=seconds, all_gone=False)


def _identity(process: psutil.Process) -> tuple[int, float] | None:
    try:
        return process.pid, process.create_time()  # a pid alone may be used again
    except psutil.NoSuchProcess:
        return None


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
            process.resume()  # a stopped process does not see TERM until it goes on
    except psutil.NoSuchProcess:
        return
