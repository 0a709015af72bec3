"""Artifacts laid out on this machine's disk: one folder per manifest digest, shared by its users."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from tunefleet.artifact.v1.artifact_service_pb2 import GetManifestRequest
from tunefleet_core.artifacts import ArtifactStore, validate_manifest
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_services.control.connection import Connection

__all__ = ["ArtifactFolders"]


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
        try:
            await asyncio.to_thread(blobs.materialise, manifest, partial)
            await asyncio.to_thread(partial.rename, folder)
        finally:
            await asyncio.to_thread(shutil.rmtree, partial, True)
