"""From a run's disk to the artifact store: blobs first, then one committed manifest."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind, Lineage, Manifest
from tunefleet.artifact.v1.artifact_service_pb2 import CommitManifestRequest, GetManifestRequest
from tunefleet.fleet.v1.fleet_pb2 import Assignment
from tunefleet_core.artifacts import ArtifactStore, build_manifest
from tunefleet_services.control import Connection

__all__ = ["ArtifactUploader"]


class ArtifactUploader:
    """Commits what one attempt wrote. The fencing number travels with every commit."""

    def __init__(
        self, connection: Connection, blobs: ArtifactStore, assignment: Assignment, hardware: str
    ) -> None:
        self._connection = connection
        self._blobs = blobs
        self._assignment = assignment
        self._lineage = lineage_of(assignment, hardware)

    async def commit(self, folder: Path, kind: ArtifactKind.ValueType, step: int) -> Manifest:
        """Store a folder and commit its manifest.

        Raises:
            TunefleetError: FENCED if the attempt was superseded.
            OSError: the store is full.
        """
        manifest = await asyncio.to_thread(
            build_manifest, folder, self._blobs, kind=kind, lineage=self._lineage, step=step
        )
        request = CommitManifestRequest(
            request_id=str(uuid.uuid4()),
            job_uid=self._assignment.job_uid,
            attempt=self._assignment.attempt,
            fencing_number=self._assignment.fencing_number,
            manifest=manifest,
        )
        response = await self._connection.patiently(
            lambda seconds: self._connection.artifacts.CommitManifest(
                request, metadata=self._connection.metadata, timeout=seconds
            )
        )
        return response.manifest

    async def fetch(self, digest: str, folder: Path) -> Path:
        """Lay out an artifact of the store in a folder, checked by digest."""
        response = await self._connection.patiently(
            lambda seconds: self._connection.artifacts.GetManifest(
                GetManifestRequest(digest=digest), metadata=self._connection.metadata, timeout=seconds
            )
        )
        return await asyncio.to_thread(self._blobs.materialise, response.manifest, folder)


def lineage_of(assignment: Assignment, hardware: str) -> Lineage:
    """Return where artifacts of an attempt come from."""
    resolved = assignment.resolved_spec
    return Lineage(
        job=assignment.job,
        attempt=assignment.attempt,
        resolved_spec_digest=assignment.resolved_spec_digest,
        base_model=resolved.base.model,
        base_digest=resolved.base.base_digest,
        tokenizer_digest=resolved.base.tokenizer_digest,
        template_digest=resolved.chat_template.sha256,
        dataset_digests=[item.sha256 for item in resolved.data],
        environment_digest=resolved.backend.environment_digest,
        plugins=[resolved.backend.plugin] if resolved.backend.plugin else [],
        hardware=hardware,
    )
