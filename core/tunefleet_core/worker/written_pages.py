"""Which pages of memory a run writes to, so that the next fork has its own copies before there is work.

A fork shares the memory of its parent until it writes to a page, and each first write is a fault that
copies the page. In Python even reading writes, for it counts references. A run meets some thousands of
such faults up to its first step. What one run wrote is what the next will write; whoever waits for work
can have these pages copied meanwhile, and only these, which it would come to hold anyway.

Linux only: see proc_pid_pagemap(5), and MADV_POPULATE_WRITE in madvise(2), of Linux 5.14. On an older
kernel, or where the page map is hidden, nothing is copied ahead.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["WrittenPages"]

_MADV_POPULATE_WRITE = 23
_ENTRY_BYTES = 8
_OWN = bytes((flags & 0x81) == 0x81 for flags in range(256))
"""The highest byte of an entry says that a page is there (bit 63) and that nobody else maps it (bit 56)."""
_RUNS = re.compile(b"\x01+")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Area:
    """Memory that this process may write to and shares with nobody by intent."""

    start: int
    pages: int


class WrittenPages:
    """Shared between a process and all its forks: make it before the first of them.

    A fork calls `copy` when it waits for work and `note` when it has done some; what is noted last counts.
    """

    def __init__(self) -> None:
        self._areas = tuple(_private_areas())
        # One byte a page. Forks that note at the same time mix two truths, which harms nobody.
        self._noted = mmap.mmap(-1, max(1, sum(area.pages for area in self._areas)))

    def note(self) -> None:
        """Remember which pages of its parent this fork has copies of."""
        place = 0
        try:
            with Path("/proc/self/pagemap").open("rb", buffering=0) as entries:
                for area in self._areas:
                    entries.seek(area.start // mmap.PAGESIZE * _ENTRY_BYTES)
                    found = entries.read(area.pages * _ENTRY_BYTES)
                    own = found[_ENTRY_BYTES - 1 :: _ENTRY_BYTES].translate(_OWN)
                    self._noted[place : place + len(own)] = own
                    place += area.pages
        except OSError:
            return  # hidden from us: the next fork copies as it goes

    def copy(self) -> int:
        """Have copies of the pages that a fork before this one came to write to; return how many."""
        libc = ctypes.CDLL(None)
        libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        place, copied = 0, 0
        for area in self._areas:
            for run in _RUNS.finditer(self._noted[place : place + area.pages]):
                start, length = area.start + run.start() * mmap.PAGESIZE, run.end() - run.start()
                # It fails where the memory has been given back since, or the kernel does not know it.
                if not libc.madvise(start, length * mmap.PAGESIZE, _MADV_POPULATE_WRITE):
                    copied += length
            place += area.pages
        return copied


def _private_areas() -> Iterator[_Area]:
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, rights = line.split(maxsplit=2)[:2]
        if rights == "rw-p":
            start, end = (int(address, 16) for address in addresses.split("-"))
            yield _Area(start=start, pages=(end - start) // mmap.PAGESIZE)
