"""Artifacts: what jobs wrote, as manifests, and their files in a folder."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration

from tunefleet.artifact.v1 import artifact_service_pb2 as wire
from tunefleet.artifact.v1.artifact_pb2 import File, Manifest
from tunefleet.artifact.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from tunefleet_client.calls import Connection
from tunefleet_client.errors import at_path, failure
from tunefleet_client.models import Models
from tunefleet_client.requests import new_request_id
from tunefleet_client.transfers import Progress, Transfers
from tunefleet_core.artifacts import sha256_of_file, sync_tree, validate_manifest
from tunefleet_core.errors import Reason

if TYPE_CHECKING:
    from tunefleet.artifact.v1.artifact_service_pb2_grpc import ArtifactServiceAsyncStub

__all__ = ["Artifacts"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PRUNE_DEADLINE_SECONDS = 300.0


class Artifacts:
    """The artifacts of a fleet. Every method raises TunefleetError."""

    def __init__(self, connection: Connection, models: Models, transfers: Transfers) -> None:
        self._connection = connection
        self._models = models
        self._transfers = transfers
        self._stub: ArtifactServiceAsyncStub = ArtifactServiceStub(connection.channel)

    async def manifest(self, digest: str) -> Manifest:
        """Return a manifest."""
        request = wire.GetManifestRequest(digest=digest)
        return (await self._connection.unary(self._stub.GetManifest, request)).manifest

    async def fetch(self, what: str, folder: str | Path, *, progress: Progress | None = None) -> Manifest:
        """Fetch the files of an artifact into a folder, each checked by its digest.

        The folder appears whole or not at all. What a fetch that was cut has brought lies beside
        it, in `.NAME.partial`, and is gone on with.

        Args:
            what: Digest of a manifest, or the name of a model.
            folder: Must not exist, or be empty.
            progress: Told bytes so far and bytes in all.

        Raises:
            TunefleetError: MODEL_NOT_FOUND, MANIFEST_NOT_FOUND, BLOB_NOT_FOUND if it was pruned,
                FIELD_INVALID for a folder with something in it or a path that would leave it.
        """
        manifest = (
            await self.manifest(what) if _DIGEST.fullmatch(what) else (await self._models.get(what)).manifest
        )
        goal = Path(folder)
        with at_path(goal):
            validate_manifest(manifest)  # no path leaves the folder, whatever the other side says
            is_taken = goal.exists() and (not goal.is_dir() or any(goal.iterdir()))
        if is_taken:
            raise failure(
                Reason.FIELD_INVALID,
                f"{goal} is there already.",
                hint="Name a folder that does not exist yet.",
                metadata={"path": str(goal)},
            )
        partial = goal.with_name(f".{goal.name}.partial")
        count = _Count(sum(file.size_bytes for file in manifest.files), progress)
        with at_path(goal):
            for file in manifest.files:
                await self._bring(file, partial / file.path, count)
            await asyncio.to_thread(_keep, manifest, partial, goal)
        return manifest

    async def prune(
        self,
        *,
        older_than_seconds: float | None = None,
        validate_only: bool = False,
        request_id: str | None = None,
    ) -> wire.PruneArtifactsResponse:
        """Remove what nothing needs any more, or only tell what would go."""
        request = wire.PruneArtifactsRequest(
            request_id=new_request_id(request_id), validate_only=validate_only
        )
        if older_than_seconds is not None:
            age = Duration()
            age.FromNanoseconds(int(older_than_seconds * 1e9))
            request.older_than.CopyFrom(age)
        return await self._connection.unary(
            self._stub.PruneArtifacts, request, deadline_seconds=_PRUNE_DEADLINE_SECONDS
        )

    async def _bring(self, file: File, target: Path, count: _Count) -> None:
        if await asyncio.to_thread(_is_there, file, target):
            count.tell(file.size_bytes)
        else:
            await self._transfers.download(file.sha256, target, progress=lambda done, _: count.tell(done))
        count.finished(file.size_bytes)


class _Count:
    """Bytes over all files of a fetch."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._before = 0
        self._total = total
        self._progress = progress

    def tell(self, done: int) -> None:
        if self._progress is not None:
            self._progress(self._before + done, self._total)

    def finished(self, size_bytes: int) -> None:
        self._before += size_bytes


def _is_there(file: File, target: Path) -> bool:
    """Return whether an earlier fetch brought a file, whole."""
    try:
        return target.stat().st_size == file.size_bytes and sha256_of_file(target) == file.sha256
    except (FileNotFoundError, NotADirectoryError):
        return False


def _keep(manifest: Manifest, partial: Path, goal: Path) -> None:
    """Remove what is not of this manifest (an earlier fetch into the same name), then name it."""
    wanted = {partial / file.path for file in manifest.files}
    for path in [item for item in partial.rglob("*") if item.is_symlink() or not item.is_dir()]:
        if path not in wanted:
            path.unlink()
    sync_tree(partial)
    if goal.exists():
        goal.rmdir()  # it is empty
    shutil.move(partial, goal)
