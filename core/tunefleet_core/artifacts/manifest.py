"""Manifests: which files, how large, with which content.

A manifest is named by the digest of itself, so the same files of the same
attempt are one manifest however often they are committed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind, File, Lineage, Manifest
from tunefleet_core.artifacts.blobs import ArtifactStore
from tunefleet_core.errors import TunefleetError

__all__ = ["build_manifest", "check_relative_path", "manifest_digest", "validate_manifest"]

_MAX_FILES = 10_000


def manifest_digest(manifest: Manifest) -> str:
    """Return the SHA-256 of a manifest without its own digest and time, hex."""
    bare = Manifest()
    bare.CopyFrom(manifest)
    bare.ClearField("digest")
    bare.ClearField("create_time")
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def build_manifest(
    folder: Path,
    blobs: ArtifactStore,
    *,
    kind: ArtifactKind.ValueType,
    lineage: Lineage,
    step: int,
) -> Manifest:
    """Put every file of a folder into the blob store and return their manifest.

    Blocks on the disk: run it in a thread. Raises OSError when the store is full;
    blobs that were already put stay, harmless.
    """
    manifest = Manifest(kind=kind, lineage=lineage, step=step)
    for path in sorted(item for item in folder.rglob("*") if item.is_file() and not item.is_symlink()):
        sha256, size_bytes = blobs.put_file(path)
        name = path.relative_to(folder).as_posix()
        manifest.files.append(File(path=name, size_bytes=size_bytes, sha256=sha256))
    manifest.digest = manifest_digest(manifest)
    return manifest


def check_relative_path(path: str) -> None:
    """Raise FIELD_INVALID unless a manifest path stays inside its folder."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or "\0" in path or ".." in parts:
        raise TunefleetError.field("manifest.files.path", f"'{path}' would leave the artifact's folder")


def validate_manifest(manifest: Manifest) -> None:
    """Raise FIELD_INVALID unless a manifest is well formed and carries its own digest."""
    if not manifest.files:
        raise TunefleetError.field("manifest.files", "an artifact needs at least one file")
    if len(manifest.files) > _MAX_FILES:
        raise TunefleetError.field("manifest.files", f"more than {_MAX_FILES} files")
    for file in manifest.files:
        check_relative_path(file.path)
        if len(file.sha256) != 64 or set(file.sha256) - set("0123456789abcdef"):
            raise TunefleetError.field("manifest.files.sha256", f"'{file.sha256}' is no SHA-256 in hex")
        if file.size_bytes < 0:
            raise TunefleetError.field("manifest.files.size_bytes", f"negative for '{file.path}'")
    if manifest.digest != manifest_digest(manifest):
        raise TunefleetError.field("manifest.digest", "is not the digest of the manifest")
