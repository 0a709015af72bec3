"""Which sizes the blobs of a store have: where none has the size of a file, the file is not among them."""

from __future__ import annotations

import os
from contextlib import suppress

from tunefleet_core.artifacts.blobs import BlobStore

__all__ = ["BlobSizes"]


class BlobSizes:
    """The sizes in bytes of a store's blobs, as of now. Looks at the disk: ask it in a thread.

    A folder of blobs is read again once a name was added to it or removed; processes beside this
    one add and remove too.
    """

    def __init__(self, store: BlobStore) -> None:
        self._folder = store.folder
        self._known: dict[str, tuple[int, frozenset[int]]] = {}

    def has(self, size_bytes: int) -> bool:
        """Whether any blob has so many bytes."""
        try:
            folders = [entry for entry in os.scandir(self._folder) if entry.is_dir()]
        except FileNotFoundError:
            return False
        return any(size_bytes in self._sizes_in(folder) for folder in folders)

    def _sizes_in(self, folder: os.DirEntry[str]) -> frozenset[int]:
        changed = folder.stat().st_mtime_ns
        known, sizes = self._known.get(folder.name, (-1, frozenset[int]()))
        if known != changed:
            sizes = frozenset(_sizes(folder.path))
            self._known[folder.name] = (changed, sizes)
        return sizes


def _sizes(folder: str) -> list[int]:
    found: list[int] = []
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):  # removed, or renamed to what it is, in between
            found.append(entry.stat().st_size)
    return found
