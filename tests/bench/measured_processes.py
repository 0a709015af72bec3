"""Processor time and memory of a tree of processes, also of those in it that end meanwhile.

Memory is the high-water mark that the kernel keeps for each process, so nothing between two looks is
missed but what a process takes in its last moment. Pages that processes share are counted in each.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

__all__ = ["Seen", "Watch", "tree_cpu_seconds", "watched"]

_LOOK_SECONDS = 0.1


@dataclass(slots=True, kw_only=True)
class Seen:
    """What was last seen of a process.

    Attributes:
        command: Its command line.
        cpu_seconds: Its own time, user and system, without its children's.
        begun_seconds: The same when it was first seen.
        peak_bytes: The most memory that it had resident.
    """

    command: list[str]
    cpu_seconds: float
    begun_seconds: float
    peak_bytes: int


@dataclass(slots=True)
class Watch:
    """What was seen of the processes below one."""

    root: int
    seen: dict[tuple[int, float], Seen] = field(default_factory=dict[tuple[int, float], Seen])

    def look(self) -> None:
        """Read every process of the tree once."""
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.root)
            for process in (root, *root.children(recursive=True)):
                with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, FileNotFoundError):
                    self._look_at(process)

    def peaks(self, is_meant: Callable[[list[str]], bool], *, count: int) -> int:
        """Return the memory of the largest so many of the processes that are meant, summed, bytes."""
        found = sorted(
            (item.peak_bytes for item in self.seen.values() if is_meant(item.command)), reverse=True
        )
        return sum(found[:count])

    def cpu_by(self, name: Callable[[list[str]], str]) -> dict[str, float]:
        """Return the processor seconds while watched, by what `name` makes of a command line."""
        found: dict[str, float] = {}
        for item in self.seen.values():
            key = name(item.command)
            found[key] = found.get(key, 0.0) + item.cpu_seconds - item.begun_seconds
        return found

    def _look_at(self, process: psutil.Process) -> None:
        key = (process.pid, process.create_time())
        times = process.cpu_times()
        cpu = times.user + times.system
        peak = _peak_bytes(process.pid)
        if (item := self.seen.get(key)) is None:
            command = process.cmdline()
            self.seen[key] = Seen(command=command, cpu_seconds=cpu, begun_seconds=0.0, peak_bytes=peak)
        else:
            item.command = process.cmdline()  # a process that was just forked still has its parent's
            item.cpu_seconds, item.peak_bytes = cpu, max(peak, item.peak_bytes)


@asynccontextmanager
async def watched(pid: int) -> AsyncIterator[Watch]:
    """Look at a process and all below it until the block ends."""
    watch = Watch(pid)
    watch.look()
    for item in watch.seen.values():
        item.begun_seconds = item.cpu_seconds  # what they did before does not count
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(_keep_looking(watch))
        try:
            yield watch
        finally:
            watch.look()
            looking.cancel()


def tree_cpu_seconds(pid: int) -> float:
    """Return the processor seconds of a process, of all below it, and of those of them that have ended."""
    total = 0.0
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


async def _keep_looking(watch: Watch) -> None:
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        watch.look()


def _peak_bytes(pid: int) -> int:
    """Return the high-water mark of resident memory; 0 where the system does not tell."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
