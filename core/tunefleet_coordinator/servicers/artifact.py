"""ArtifactService: manifests are committed, read, and removed when nothing needs them."""

from __future__ import annotations

from tunefleet.artifact.v1 import artifact_service_pb2 as artifact_pb
from tunefleet.artifact.v1 import artifact_service_pb2_grpc as artifact_grpc
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.pruning import Pruner
from tunefleet_coordinator.servicers.holders import require_holder
from tunefleet_coordinator.views import manifest_view
from tunefleet_core.artifacts import BlobStore, validate_manifest
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import ManifestCommitted, ManifestRow
from tunefleet_core.rpc import RpcContext

__all__ = ["ArtifactServicer"]

_DAY_SECONDS = 86_400.0


class ArtifactServicer(artifact_grpc.ArtifactServiceServicer):
    """Keeps manifests; the docs of each method are in the proto."""

    def __init__(self, kernel: Kernel, blobs: BlobStore, pruner: Pruner) -> None:
        self._kernel = kernel
        self._blobs = blobs
        self._pruner = pruner

    async def GetManifest(
        self, request: artifact_pb.GetManifestRequest, context: RpcContext
    ) -> artifact_pb.GetManifestResponse:
        row = await self._kernel.read(self._kernel.store.get_manifest, request.digest)
        if row is None:
            raise TunefleetError(
                Reason.MANIFEST_NOT_FOUND,
                f"No manifest '{request.digest[:12]}'.",
                hint="tunefleet models list",
                metadata={"digest": request.digest},
            )
        return artifact_pb.GetManifestResponse(manifest=manifest_view(row))

    async def CommitManifest(
        self, request: artifact_pb.CommitManifestRequest, context: RpcContext
    ) -> artifact_pb.CommitManifestResponse:
        await require_holder(self._kernel, request.job_uid, request.attempt)
        manifest = request.manifest
        validate_manifest(manifest)
        for file in manifest.files:
            if not self._blobs.path_of(file.sha256).is_file():
                raise TunefleetError.field(
                    "manifest.files.sha256",
                    f"the store has no blob {file.sha256[:12]} for '{file.path}'",
                    hint="Put every blob into the store before its manifest is committed.",
                )
        answer = await self._kernel.submit(
            ManifestCommitted(
                at=self._kernel.moment(),
                job_uid=request.job_uid,
                attempt=request.attempt,
                fencing_number=request.fencing_number,
                digest=manifest.digest,
                kind=manifest.kind,
                step=manifest.step,
                manifest=manifest.SerializeToString(),
            )
        )
        assert isinstance(answer, ManifestRow)  # the answer to ManifestCommitted
        return artifact_pb.CommitManifestResponse(manifest=manifest_view(answer))

    async def PruneArtifacts(
        self, request: artifact_pb.PruneArtifactsRequest, context: RpcContext
    ) -> artifact_pb.PruneArtifactsResponse:
        # A repeat removes what is left, so it needs no memory of the first.
        older_than = _DAY_SECONDS
        if request.HasField("older_than"):
            older_than = request.older_than.ToMilliseconds() / 1000
        if older_than < 0:
            raise TunefleetError.field("older_than", "must not be negative")
        pruned = await self._pruner.prune(older_than_seconds=older_than, is_trial=request.validate_only)
        return artifact_pb.PruneArtifactsResponse(items=pruned.items, freed_bytes=pruned.freed_bytes)
