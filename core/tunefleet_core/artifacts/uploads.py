"""Blobs that arrive in pieces: a partial file per upload and sender, whole only if its digest is right.

A partial file survives its connection and its process, so that a transfer that was cut goes on
where it stopped. Each sender has a partial of its own: nobody can spoil the bytes of another. The
newest call of a sender owns the partial; an older one, whose connection may be long gone, is told
that it was moved on.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunefleet_core.artifacts.blobs import BlobStore
from tunefleet_core.artifacts.growing import GrowingFile
from tunefleet_core.artifacts.pieces import Piece
from tunefleet_core.artifacts.writing import naming_full_disk, sync_folder
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["Upload", "Uploads", "upload_id_of"]


@dataclass(slots=True, eq=False)
class _Slot:
    """One partial: who may write it now. The lock outlives calls that were cancelled in a thread."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    holder: object | None = None
    users: int = 0


class Uploads:
    """The partial blobs of a store. Every method blocks on the disk: run it in a thread."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._slots: dict[str, _Slot] = {}
        self._slots_lock = threading.Lock()

    def size_of(self, key: str, sender: str) -> int:
        """Return how many bytes of an upload a sender has brought so far."""
        try:
            return self._path(key, sender).stat().st_size
        except FileNotFoundError:
            return 0

    def begin(self, key: str, sender: str, *, size_bytes: int, offset: int) -> Upload:
        """Go on with a partial blob, or begin it.

        Args:
            key: 64 hex digits: the digest, or what the sender calls it while the digest is not known.
            sender: Who brings it.
            size_bytes: What the whole content must have.
            offset: Where the first piece begins: the size that is there.

        Raises:
            TunefleetError: UPLOAD_MOVED if the partial has another size.
        """
        path = self._path(key, sender)
        slot = self._take(path.name)
        try:
            with slot.lock, naming_full_disk(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                there = self.size_of(key, sender)
                if there > size_bytes:  # of another size once, so not these bytes
                    path.unlink()
                    there = 0
                if offset != there:
                    raise _moved(key, there)
                upload = Upload(self, slot, path, size_bytes)
                slot.holder = upload
                return upload
        except BaseException:
            self.release(path.name, slot)
            raise

    def forget(self, key: str, sender: str) -> None:
        """Remove what a sender has brought of an upload that nobody needs any more."""
        self._path(key, sender).unlink(missing_ok=True)

    def keep(self, path: Path, sha256: str) -> None:
        """Make a partial file, whole and synced, the blob."""
        self._store.adopt(path, sha256)

    def release(self, name: str, slot: _Slot) -> None:
        """Forget a slot that nobody uses any more."""
        with self._slots_lock:
            slot.users -= 1
            if not slot.users:
                del self._slots[name]

    def _take(self, name: str) -> _Slot:
        with self._slots_lock:
            slot = self._slots.setdefault(name, _Slot())
            slot.users += 1
            return slot

    def _path(self, key: str, sender: str) -> Path:
        # The name of a principal is no file name; its digest is.
        owner = hashlib.sha256(sender.encode()).hexdigest()[:16]
        return self._store.uploads / f"{key}.{owner}"


class Upload:
    """One call's hold on a partial blob. Made by `Uploads.begin`, which holds the slot; always closed."""

    def __init__(self, uploads: Uploads, slot: _Slot, path: Path, size_bytes: int) -> None:
        self._uploads = uploads
        self._slot = slot
        self._path = path
        self._size_bytes = size_bytes
        self._file: GrowingFile | None = GrowingFile(path)

    def write(self, pieces: Sequence[Piece]) -> None:
        """Add the next pieces.

        Raises:
            TunefleetError: UPLOAD_MOVED if a newer call goes on with the partial;
                DIGEST_MISMATCH if there is more than was announced: nothing is kept then.
            OSError: the disk is full; nothing is kept.
        """
        with self._slot.lock:
            file = self._held()
            if file.size_bytes + sum(map(len, pieces)) > self._size_bytes:
                self._discard()
                raise _mismatch(
                    self._path.name, f"more than the {self._size_bytes} bytes that were announced came"
                )
            try:
                with naming_full_disk(self._path):
                    file.write(pieces)
            except BaseException:
                self._discard()
                raise

    def write_from(self, descriptor: int, most_bytes: int) -> int:
        """Add what an open file has behind what is there; return how much, 0 when all is there.

        Raises:
            TunefleetError: UPLOAD_MOVED if a newer call goes on with the partial.
            OSError: the disk is full; nothing is kept.
        """
        with self._slot.lock:
            file = self._held()
            try:
                with naming_full_disk(self._path):
                    return file.write_from(descriptor, min(most_bytes, self._size_bytes - file.size_bytes))
            except BaseException:
                self._discard()
                raise

    def close_behind(self, descriptor: int) -> None:
        """Close a file that `write_from` reads, once no thread does any more."""
        with self._slot.lock:
            os.close(descriptor)

    def hexdigest(self) -> str:
        """Return the SHA-256 of what is there. Raises UPLOAD_MOVED."""
        with self._slot.lock:
            return self._held().hexdigest()

    def finish(self, sha256: str) -> int:
        """Make the partial the blob; return its size in bytes.

        Args:
            sha256: What the whole content must have.

        Raises:
            TunefleetError: UPLOAD_MOVED; DIGEST_MISMATCH if the content is not that of the
                digest: nothing is kept then. Fewer bytes than announced: FIELD_INVALID, kept.
            OSError: the disk is full; nothing is kept.
        """
        with self._slot.lock:
            file = self._held()
            if file.size_bytes < self._size_bytes:
                raise TunefleetError.field(
                    "start.size_bytes",
                    f"{self._size_bytes} bytes were announced, {file.size_bytes} are there",
                    hint="Ask how much is there, then send the rest.",
                )
            if file.hexdigest() != sha256:
                self._discard()
                raise _mismatch(sha256, f"the content has {file.hexdigest()[:12]}")
            try:
                with naming_full_disk(self._path):
                    file.sync()
                    self._uploads.keep(self._path, sha256)
            except BaseException:
                self._discard()
                raise
            self._slot.holder = None
            return self._size_bytes

    def discard(self) -> None:
        """Keep nothing of it. Raises UPLOAD_MOVED."""
        with self._slot.lock:
            self._held()
            self._discard()

    def close(self) -> None:
        """Let go; what has come so far stays, for the next call to go on."""
        with self._slot.lock:
            if self._file is None:
                return
            if self._slot.holder is self:
                self._slot.holder = None
            self._file.close()
            self._file = None
        self._uploads.release(self._path.name, self._slot)

    def _held(self) -> GrowingFile:
        """Return the file if this call may write it."""
        if self._file is None or self._slot.holder is not self:
            raise _moved(self._path.name, self._path.stat().st_size if self._path.exists() else 0)
        return self._file

    def _discard(self) -> None:
        self._slot.holder = None
        self._path.unlink(missing_ok=True)
        sync_folder(self._path.parent)


def upload_id_of(path: Path, status: os.stat_result) -> str:
    """Return what an upload of a file is called: the same whenever the same file, unchanged, is sent.

    So an upload goes on in another process, and needs no digest to be found again.
    """
    facts = (path.resolve(), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _moved(key: str, there: int) -> TunefleetError:
    return TunefleetError(
        Reason.UPLOAD_MOVED,
        f"The upload {key[:12]} stands at {there} bytes.",
        hint="Ask how much is there, then go on from that.",
        metadata={"upload": key[:64], "size_bytes": str(there)},
    )


def _mismatch(key: str, fact: str) -> TunefleetError:
    return TunefleetError(
        Reason.DIGEST_MISMATCH,
        f"The bytes are not those of {key[:12]}: {fact}.",
        hint="Read the file again and send it from its start.",
        metadata={"sha256": key[:64]},
    )
