"""Blobs in a folder, named by the SHA-256 of their content.

A blob is immutable and harmless: nothing counts until a manifest names it. On
one file system a blob is a hard link to what the run wrote, so a checkpoint is
stored without copying a byte.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tunefleet.artifact.v1.artifact_pb2 import Manifest
from tunefleet_core.artifacts.writing import naming_full_disk, sync_folder
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["ArtifactStore", "BlobStore", "check_sha256", "lost_file", "sha256_of_file"]

_CHUNK_BYTES = 1 << 20
_CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)


def check_sha256(value: str, field: str) -> str:
    """Return a digest if it is one: 64 hex digits, so that it can be no path. Raises FIELD_INVALID."""
    if len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise TunefleetError.field(field, f"'{value[:80]}' is no SHA-256 in lower-case hex")
    return value


def lost_file(manifest: Manifest, path: str) -> TunefleetError:
    """Build the error for a file of an artifact whose blob is missing or damaged."""
    return TunefleetError(
        Reason.MANIFEST_NOT_FOUND,
        f"File '{path}' of artifact {manifest.digest[:12]} is missing or damaged.",
        hint="Restore the artifact store, or run the job again.",
        metadata={"digest": manifest.digest, "path": path},
    )


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


class ArtifactStore(Protocol):
    """Where the files of runs are kept: `BlobStore`, or what reaches one elsewhere. Every method blocks."""

    def put_file(self, source: Path) -> tuple[str, int]:
        """Add a file that will not change any more; return its digest and size in bytes."""
        ...

    def materialise(self, manifest: Manifest, folder: Path) -> Path:
        """Lay the files of a manifest out in an empty folder, each checked by digest."""
        ...


class BlobStore:
    """A folder of blobs: `<root>/sha256/<first two digits>/<digest>`.

    A blob's modification time is when it was put the last time: whoever puts a blob that is
    there already renews it. A prune takes only old ones, and the lock of the store makes
    "is it there" and "renew it" one step against "is it old" and "remove it".
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._root = root / "sha256"

    @property
    def folder(self) -> Path:
        """Where blobs lie, in folders by the first two digits."""
        return self._root

    @property
    def uploads(self) -> Path:
        """Where blobs lie that are not whole yet."""
        return self.root / "uploads"

    @classmethod
    def from_uri(cls, uri: str) -> BlobStore:
        """Open the store that a coordinator named in its welcome, `file:///…`."""
        if not uri.startswith("file://"):
            raise TunefleetError.field("artifact_store", f"'{uri}' is not a file:// address")
        return cls(Path(uri.removeprefix("file://")))

    def path_of(self, sha256: str) -> Path:
        """Return where a blob lies, whether it is there or not."""
        return self._root / sha256[:2] / sha256

    def put_file(self, source: Path) -> tuple[str, int]:
        """Add a file that will not change any more; return its digest and size in bytes."""
        sha256 = sha256_of_file(source)
        size_bytes = source.stat().st_size
        if not self.renew(sha256):
            target = self.path_of(sha256)
            partial = target.with_name(f"{sha256}.{uuid.uuid4().hex}.partial")
            try:
                with naming_full_disk(target):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _link_or_copy(source, partial)
                self.adopt(partial, sha256)
            finally:
                partial.unlink(missing_ok=True)
        return sha256, size_bytes

    def adopt(self, partial: Path, sha256: str) -> None:
        """Make a whole and synced file on the store's file system the blob of its digest."""
        target = self.path_of(sha256)
        with naming_full_disk(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with self.locked(exclusive=False):
                os.utime(partial)
                partial.replace(target)
                # A manifest may be committed next: its blobs must outlive a power cut by name too.
                sync_folder(target.parent)

    def renew(self, sha256: str) -> bool:
        """Say that a blob was put again; return whether it is there."""
        with self.locked(exclusive=False):
            try:
                os.utime(self.path_of(sha256))
            except FileNotFoundError:
                return False
            return True

    @contextmanager
    def locked(self, *, exclusive: bool) -> Generator[None]:
        """Hold the store's lock: shared to put blobs, exclusive to remove them. Blocks."""
        self.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root / "prune.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def materialise(self, manifest: Manifest, folder: Path) -> Path:
        """Lay the files of a manifest out in an empty folder, each checked by digest.

        Raises:
            TunefleetError: MANIFEST_NOT_FOUND if a blob is missing or damaged.
            OSError: the disk is full.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in manifest.files:
            blob = self.path_of(file.sha256)
            if not blob.is_file() or sha256_of_file(blob) != file.sha256:
                raise lost_file(manifest, file.path)
            target = folder / file.path
            with naming_full_disk(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(blob, target)
        return folder


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        shutil.copyfile(source, target)
        with target.open("rb") as stream:
            os.fsync(stream.fileno())
