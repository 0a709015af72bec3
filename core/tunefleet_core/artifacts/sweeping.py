"""Remove from a store's disk what nothing names: old blobs, stale partials, folders of ended runs.

A blob may be put and not yet be named by a manifest. So only blobs go that were put before a
moment at which nobody alive can have put them; see `BlobStore` for how "put" is told.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tunefleet_core.artifacts.blobs import BlobStore

__all__ = ["Sweep", "SweepOrder", "Swept"]

_DIGEST_LENGTH = 64
_BATCH = 200
"""Blobs removed per hold of the store's lock: whoever puts blobs waits no longer than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOrder:
    """What a sweep may take. Times are wall-clock seconds."""

    needed: frozenset[str]
    """Blobs that stay."""
    put_before: float
    """Only blobs last put before this."""
    never_after: float
    """No blob at all that was put after this: it may be of an attempt that is alive."""
    released: dict[str, float] = field(default_factory=dict[str, float])
    """Blobs of manifests that have just gone, with when they were committed: not put since, they may go."""
    stale_before: float = 0.0
    """Partials that were last written before this."""
    run_folders: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """Something that went, or would go."""

    kind: str
    name: str
    size_bytes: int
    reason: str


class Sweep:
    """One pass over a store. Blocks on the disk: run it in a thread."""

    def __init__(self, store: BlobStore, order: SweepOrder, *, is_trial: bool) -> None:
        self._store = store
        self._order = order
        self._is_trial = is_trial
        self._links: Counter[tuple[int, int]] = Counter()
        self._inodes: dict[tuple[int, int], os.stat_result] = {}

    def run(self) -> tuple[list[Swept], int]:
        """Remove, or with `is_trial` only find; return what, and the bytes that become free."""
        found = [*self._run_folders(), *self._partials(), *self._blobs()]
        freed = sum(
            status.st_size for inode, status in self._inodes.items() if self._links[inode] == status.st_nlink
        )
        return found, freed

    def _run_folders(self) -> Iterator[Swept]:
        for folder in self._order.run_folders:
            size = 0
            for path in folder.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    size += self._count(path.stat())
            if not self._is_trial:
                shutil.rmtree(folder, ignore_errors=True)
            yield Swept(kind="run_folder", name=str(folder), size_bytes=size, reason="its attempt has ended")

    def _partials(self) -> Iterator[Swept]:
        inside = self._store.root.glob("sha256/*/*.partial")
        for path in sorted([*self._store.uploads.glob("*"), *inside]):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            # A link to an old file has an old modification time, but changed just now.
            if max(status.st_mtime, status.st_ctime) >= self._order.stale_before:
                continue
            self._count(status)
            if not self._is_trial:
                path.unlink(missing_ok=True)
            yield Swept(
                kind="upload", name=path.name, size_bytes=status.st_size, reason="nobody went on with it"
            )

    def _blobs(self) -> Iterator[Swept]:
        paths = [path for path in sorted(self._store.root.glob("sha256/*/*")) if self._may_go(path)]
        for start in range(0, len(paths), _BATCH):
            with self._store.locked(exclusive=True):
                for path in paths[start : start + _BATCH]:
                    if self._may_go(path):  # again: it may have been put again meanwhile
                        status = path.stat()
                        self._count(status)
                        if not self._is_trial:
                            path.unlink()
                        yield Swept(
                            kind="blob", name=path.name, size_bytes=status.st_size, reason="nothing names it"
                        )

    def _may_go(self, path: Path) -> bool:
        order = self._order
        if len(path.name) != _DIGEST_LENGTH or path.name in order.needed:
            return False
        try:
            put = path.stat().st_mtime
        except FileNotFoundError:
            return False
        return put < order.never_after and (
            put < order.put_before or put <= order.released.get(path.name, 0.0)
        )

    def _count(self, status: os.stat_result) -> int:
        inode = (status.st_dev, status.st_ino)
        self._links[inode] += 1
        self._inodes.setdefault(inode, status)  # before anything of it went
        return status.st_size
