"""Artifacts: what jobs wrote, as manifests, and their files in a folder.

Sync face of `tunefleet_client.artifacts`; written by clients/generate_sync.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunefleet.artifact.v1 import artifact_service_pb2 as wire
from tunefleet.artifact.v1.artifact_pb2 import Manifest
from tunefleet_client import artifacts as _async
from tunefleet_client.sync.session import Session
from tunefleet_client.transfers import Progress

__all__ = ["Artifacts"]


class Artifacts:
    """The artifacts of a fleet. Every method raises TunefleetError."""

    def __init__(self, session: Session[Any], inner: _async.Artifacts) -> None:
        self._session = session
        self._inner = inner

    def manifest(self, digest: str) -> Manifest:
        """Return a manifest."""
        return self._session.call(self._inner.manifest(digest))

    def fetch(self, what: str, folder: str | Path, *, progress: Progress | None = None) -> Manifest:
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
        return self._session.call(self._inner.fetch(what, folder, progress=progress))

    def prune(
        self,
        *,
        older_than_seconds: float | None = None,
        validate_only: bool = False,
        request_id: str | None = None,
    ) -> wire.PruneArtifactsResponse:
        """Remove what nothing needs any more, or only tell what would go."""
        return self._session.call(
            self._inner.prune(
                older_than_seconds=older_than_seconds, validate_only=validate_only, request_id=request_id
            )
        )
