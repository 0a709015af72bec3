"""Artifacts laid out on this machine's disk: one folder per manifest digest, shared by its users."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tunefleet.artifact.v1.artifact_service_pb2 import GetManifestRequest
from tunefleet.job.v1.event_pb2 import Download
from tunefleet_core.artifacts import ArtifactStore, validate_manifest
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_services.control.connection import Connection

__all__ = ["ArtifactFolders"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Coming:
    """An artifact that is being laid out: where, and how large it will be."""

    folder: Path
    total_bytes: int


class ArtifactFolders:
    """Fetches artifacts once and removes those that nobody uses.

    Args:
        connection: Where manifests are asked for.
        blobs: Returns the artifact store, once it is known.
        root: The folder of the folders.
    """

    def __init__(
        self, connection: Connection, blobs: Callable[[], Awaitable[ArtifactStore]], root: Path
    ) -> None:
        self._connection = connection
        self._blobs = blobs
        self._root = root
        self._users: dict[str, set[str]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._coming: dict[str, _Coming] = {}

    def use(self, digest: str, user: str) -> None:
        """Note that somebody needs an artifact."""
        self._users.setdefault(digest, set()).add(user)

    async def fetch(self, digest: str) -> Path:
        """Return the folder of an artifact, laid out and checked by digest.

        Raises:
            TunefleetError: MANIFEST_NOT_FOUND if it is not in the store, or damaged there.
        """
        folder = self._root / digest
        async with self._locks.setdefault(digest, asyncio.Lock()):
            if not await asyncio.to_thread(folder.is_dir):
                await self._lay_out(digest, folder)
        return folder

    async def progress(self, digest: str) -> Download | None:
        """Return how far a fetch that goes on is; None: there is none."""
        coming = self._coming.get(digest)
        if coming is None:
            return None
        done = await asyncio.to_thread(_size_of, coming.folder)
        return Download(
            what=f"artifact {digest[:12]}",
            done_bytes=min(done, coming.total_bytes),
            total_bytes=coming.total_bytes,
        )

    async def drop(self, digest: str, user: str) -> None:
        """Somebody no longer needs an artifact; the folder goes with the last one."""
        users = self._users.get(digest, set())
        users.discard(user)
        if not users:
            async with self._locks.setdefault(digest, asyncio.Lock()):
                if not self._users.get(digest):  # nobody asked for it meanwhile
                    await asyncio.to_thread(shutil.rmtree, self._root / digest, True)

    def prune(self, keep: Iterable[str]) -> None:
        """Remove what an earlier life of the service left, except for some digests."""
        kept = set(keep)
        for folder in self._root.glob("*"):
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    async def _lay_out(self, digest: str, folder: Path) -> None:
        connection = self._connection
        response = await connection.patiently(
            lambda seconds: connection.artifacts.GetManifest(
                GetManifestRequest(digest=digest), metadata=connection.metadata, timeout=seconds
            )
        )
        manifest = response.manifest
        validate_manifest(manifest)
        if manifest.digest != digest:
            raise TunefleetError(
                Reason.MANIFEST_NOT_FOUND,
                f"The coordinator answered with manifest {manifest.digest[:12]} for {digest[:12]}.",
                hint="Report it: a manifest is named by its own digest.",
            )
        blobs = await self._blobs()
        partial = folder.with_name(f".{digest[:16]}.{uuid.uuid4().hex[:8]}.partial")
        total = sum(file.size_bytes for file in manifest.files)
        self._coming[digest] = _Coming(folder=partial, total_bytes=total)
        try:
            await asyncio.to_thread(blobs.materialise, manifest, partial)
            await asyncio.to_thread(partial.rename, folder)
        finally:
            del self._coming[digest]
            await asyncio.to_thread(shutil.rmtree, partial, True)


def _size_of(folder: Path) -> int:
    """Return the bytes of the files below a folder, some of which may go meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total
