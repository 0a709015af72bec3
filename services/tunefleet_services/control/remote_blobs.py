"""The artifact store as a service of another machine has it: blobs go over the network, in pieces.

A drop-in for `BlobStore` where runs are stored and laid out. It blocks, and is used in threads; what is
cut goes on from what the other side has, for as long as the service runs.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc

from tunefleet.artifact.v1 import blob_service_pb2 as pb
from tunefleet.artifact.v1.artifact_pb2 import Manifest
from tunefleet_core.artifacts import (
    PIECE_BYTES,
    GrowingFile,
    Piece,
    keep_freed_memory,
    lost_file,
    naming_full_disk,
    piece_reader,
    sha256_of_file,
    sync_folder,
    upload_id_of,
    write_message,
)
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import LIVENESS_OPTIONS, ChannelTls, error_from_rpc

__all__ = ["RemoteBlobs"]

_LOG = logging.getLogger(__name__)
_SERVICE = f"/{pb.DESCRIPTOR.services_by_name['BlobService'].full_name}"
_OPTIONS = [
    ("grpc.max_receive_message_length", 2 * PIECE_BYTES),
    ("grpc.max_send_message_length", 2 * PIECE_BYTES),
    ("grpc.http2.max_frame_size", 2 * PIECE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
    *LIVENESS_OPTIONS,
]
_CALL_SECONDS = 20.0
_LEAST_SECONDS = 120.0
_SLOWEST_BYTES_PER_SECOND = 1e6
"""A transfer that takes longer is begun again, from where it is."""
_DOWNLOAD_SECONDS = 600.0
"""The size is not known before; what came by then is kept, and the rest is asked for anew."""
_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 10.0
_SPOILT_TRIES = 3
_PASSING = (Reason.UNAVAILABLE, Reason.TIME_LIMIT, Reason.UPLOAD_MOVED, Reason.DISK_FULL)

_Result = TypeVar("_Result")


class RemoteBlobs:
    """The blobs of a coordinator elsewhere.

    Args:
        address: Its blobs process's listener for services, `host:port`.
        tls: Returns what secures a channel, as it is now: certificates are renewed.
        closed: Set when the service ends; transfers then give up.
    """

    def __init__(self, address: str, tls: Callable[[], ChannelTls], closed: threading.Event) -> None:
        self._address = address
        self._tls = tls
        self._closed = closed
        keep_freed_memory()

    def put_file(self, source: Path) -> tuple[str, int]:
        """Send a file that will not change any more; return its digest and size in bytes.

        Its digest is made here only if it has something to tell: that the store may have the file, or that
        what came of it before a cut is right. Else it is the one that the store makes of what it writes.
        """
        status = source.stat()
        size_bytes, upload_id = status.st_size, upload_id_of(source, status)
        sha256 = ""

        def send(calls: _Calls) -> str:
            nonlocal sha256
            asked = pb.GetBlobRequest(sha256=sha256, upload_id=upload_id, upload_size_bytes=size_bytes)
            there = calls.get(asked)
            if not sha256 and (there.size_bytes or not there.is_size_new):
                asked.sha256 = sha256 = sha256_of_file(source)
                there = calls.get(asked)
            if there.is_complete:
                return sha256
            offset = there.size_bytes if there.size_bytes <= size_bytes else 0
            start = pb.UploadStart(sha256=sha256, upload_id=upload_id, size_bytes=size_bytes, offset=offset)
            return calls.upload(_pieces(source, start), _limit(size_bytes - offset)).sha256

        return self._patiently(send), size_bytes

    def fetch(self, sha256: str, target: Path) -> Path:
        """Bring a blob into a file, whole and checked by its digest, or not at all.

        Raises:
            TunefleetError: BLOB_NOT_FOUND.
        """
        partial = target.with_name(f".{target.name}.partial")

        def receive(calls: _Calls) -> None:
            with naming_full_disk(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                file = GrowingFile(partial, mode=0o644)
                try:
                    calls.download(sha256, file)
                    whole = file.hexdigest() == sha256
                    file.sync()
                finally:
                    file.close()
                if not whole:
                    partial.unlink(missing_ok=True)
                    raise TunefleetError(
                        Reason.DIGEST_MISMATCH,
                        f"What came is not blob {sha256[:12]}.",
                        hint="It is fetched again; if it stays so, the blob is damaged in the store.",
                        metadata={"sha256": sha256},
                    )
                partial.replace(target)
                sync_folder(target.parent)

        self._patiently(receive)
        return target

    def materialise(self, manifest: Manifest, folder: Path) -> Path:
        """Lay the files of a manifest out in an empty folder, each checked by digest.

        Raises:
            TunefleetError: MANIFEST_NOT_FOUND if a blob is missing or damaged.
            OSError: the disk is full.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in manifest.files:
            try:
                self.fetch(file.sha256, folder / file.path)
            except TunefleetError as error:
                if error.reason not in (Reason.BLOB_NOT_FOUND, Reason.DIGEST_MISMATCH):
                    raise
                raise lost_file(manifest, file.path) from error
        return folder

    def _patiently(self, work: Callable[[_Calls], _Result]) -> _Result:
        wait = _FIRST_WAIT_SECONDS
        spoilt = 0
        while True:
            try:
                with grpc.secure_channel(
                    self._address, self._tls().credentials(), options=_OPTIONS
                ) as channel:
                    return work(_Calls(channel))
            except grpc.RpcError as error:
                typed = error_from_rpc(error, f"The blobs process at {self._address}")  # pyright: ignore[reportArgumentType]  # it has the same face
                if typed.reason is Reason.DIGEST_MISMATCH and spoilt < _SPOILT_TRIES:
                    spoilt += 1  # what had come before was spoilt over there, and is gone now
                elif typed.reason not in _PASSING:
                    raise typed from error
                _LOG.log(
                    logging.WARNING if typed.reason is Reason.DISK_FULL else logging.DEBUG,
                    "blobs do not move, next try in %.1f s: %s",
                    wait,
                    typed.message,
                )
                if self._closed.wait(wait):
                    raise typed from error
            except TunefleetError as error:
                if error.reason is not Reason.DIGEST_MISMATCH or spoilt >= _SPOILT_TRIES:
                    raise
                spoilt += 1
            wait = min(wait * 2, _LONGEST_WAIT_SECONDS)


class _Calls:
    """The methods of BlobService that are used here, past the protobuf runtime where pieces travel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._get: grpc.UnaryUnaryMultiCallable[pb.GetBlobRequest, pb.GetBlobResponse] = channel.unary_unary(
            f"{_SERVICE}/GetBlob", pb.GetBlobRequest.SerializeToString, pb.GetBlobResponse.FromString
        )
        self._upload: grpc.StreamUnaryMultiCallable[pb.UploadBlobRequest | Piece, pb.UploadBlobResponse] = (
            channel.stream_unary(f"{_SERVICE}/UploadBlob", write_message, pb.UploadBlobResponse.FromString)
        )
        self._download: grpc.UnaryStreamMultiCallable[
            pb.DownloadBlobRequest, pb.DownloadBlobResponse | memoryview
        ] = channel.unary_stream(
            f"{_SERVICE}/DownloadBlob",
            pb.DownloadBlobRequest.SerializeToString,
            piece_reader(pb.DownloadBlobResponse),
        )

    def get(self, request: pb.GetBlobRequest) -> pb.GetBlobResponse:
        """Ask what is there."""
        return self._get(request, timeout=_CALL_SECONDS)

    def upload(
        self, content: Iterator[pb.UploadBlobRequest | Piece], limit_seconds: float
    ) -> pb.UploadBlobResponse:
        """Send a start and the pieces after it."""
        return self._upload(content, timeout=limit_seconds)

    def download(self, sha256: str, file: GrowingFile) -> None:
        """Add to a file what it lacks of a blob."""
        request = pb.DownloadBlobRequest(sha256=sha256, offset=file.size_bytes)
        for response in self._download(request, timeout=_DOWNLOAD_SECONDS):
            piece = response.chunk if isinstance(response, pb.DownloadBlobResponse) else response
            if piece:
                file.write((piece,))


def _pieces(source: Path, start: pb.UploadStart) -> Iterator[pb.UploadBlobRequest | Piece]:
    yield pb.UploadBlobRequest(start=start)
    with source.open("rb", buffering=0) as stream:
        stream.seek(start.offset)
        while piece := stream.read(PIECE_BYTES):
            yield piece


def _limit(size_bytes: int) -> float:
    return _LEAST_SECONDS + size_bytes / _SLOWEST_BYTES_PER_SECOND
