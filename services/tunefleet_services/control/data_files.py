"""Files of rows: read where they lie on the coordinator's machine, fetched on any other."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tunefleet_core.artifacts import ArtifactStore
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_services.control.remote_blobs import RemoteBlobs

__all__ = ["DataFiles"]

_KEPT_SECONDS = 7 * 86_400.0


class DataFiles:
    """Brings files of rows of the artifact store to this machine, once each.

    Args:
        store: Returns the artifact store, once it is known.
        root: Where they are kept; those that nobody has asked for in a week are removed.
    """

    def __init__(self, store: Callable[[], Awaitable[ArtifactStore]], root: Path) -> None:
        self._store = store
        self._root = root
        self._locks: dict[str, asyncio.Lock] = {}

    async def bring(self, path: str, sha256: str) -> str:
        """Return where a file is read here.

        Args:
            path: Where it lies on the coordinator's machine.
            sha256: Its digest; empty if it is in no store: then it is read at that path.

        Raises:
            TunefleetError: BLOB_NOT_FOUND if the store has it no more.
        """
        store = await self._store()
        if not sha256 or not isinstance(store, RemoteBlobs):
            return path
        target = self._root / sha256
        async with self._locks.setdefault(sha256, asyncio.Lock()):
            if target.is_file():
                os.utime(target)
            else:
                await asyncio.to_thread(self._remove_old)
                await asyncio.to_thread(_fetch, store, path, sha256, target)
        return str(target)

    def _remove_old(self) -> None:
        for file in self._root.glob("*"):
            try:
                if file.stat().st_mtime < time.time() - _KEPT_SECONDS:
                    file.unlink()
            except FileNotFoundError:
                continue


def _fetch(store: RemoteBlobs, path: str, sha256: str, target: Path) -> None:
    try:
        store.fetch(sha256, target)
    except TunefleetError as error:
        if error.reason is not Reason.BLOB_NOT_FOUND:
            raise
        raise TunefleetError(
            Reason.BLOB_NOT_FOUND,
            f"{path} is a file of the coordinator's machine, which a trainer elsewhere cannot read.",
            hint=f"tunefleet datasets create NAME {path}, and name datasets/NAME in the job",
            metadata={"path": path, "sha256": sha256},
        ) from error
