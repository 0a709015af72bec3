"""Move blobs: files go up and come down in pieces, and go on where they were cut.

Sync face of `tunefleet_client.transfers`; written by clients/generate_sync.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunefleet_client import transfers as _async
from tunefleet_client.sync.session import Session
from tunefleet_client.transfers import Progress

__all__ = ["Transfers"]


class Transfers:
    """Uploads and downloads of blobs. Every method raises TunefleetError."""

    def __init__(self, session: Session[Any], inner: _async.Transfers) -> None:
        self._session = session
        self._inner = inner

    def upload(self, path: str | Path, *, progress: Progress | None = None) -> str:
        """Send a file and return its SHA-256, hex. A file that is there already is not sent.

        Args:
            path: The file; it must not change meanwhile.
            progress: Told how far it is.

        Raises:
            TunefleetError: FIELD_INVALID if the file cannot be read, DISK_FULL at the other
                side, DIGEST_MISMATCH if the file changed, UNAVAILABLE if nothing moved for long.
        """
        return self._session.call(self._inner.upload(path, progress=progress))

    def download(self, sha256: str, target: str | Path, *, progress: Progress | None = None) -> Path:
        """Fetch a blob into a file, written whole or not at all; return its path.

        A partial file from a download that was cut lies beside the target and is gone on with.

        Args:
            sha256: Digest of the blob, hex.
            target: The file; an older one is replaced at the end.
            progress: Told how far it is.

        Raises:
            TunefleetError: BLOB_NOT_FOUND, DIGEST_MISMATCH if the blob is damaged, DISK_FULL
                here, UNAVAILABLE if nothing moved for long.
        """
        return self._session.call(self._inner.download(sha256, target, progress=progress))
