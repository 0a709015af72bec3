"""What is written past the protobuf runtime is what the runtime would write, and is read alike."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError

from tunefleet.artifact.v1.blob_service_pb2 import DownloadBlobResponse, UploadBlobRequest, UploadStart
from tunefleet_core.artifacts import piece_reader, write_message


@pytest.mark.parametrize("size", [1, 127, 128, 300, 16_383, 16_384, 1 << 20])
@pytest.mark.parametrize("of", [UploadBlobRequest, DownloadBlobResponse])
def test_a_piece_has_the_bytes_of_its_message(
    of: type[UploadBlobRequest | DownloadBlobResponse], size: int
) -> None:
    piece = bytes(range(256)) * (size // 256 + 1)
    written = of(chunk=piece[:size]).SerializeToString()
    assert write_message(piece[:size]) == write_message(memoryview(piece)[:size]) == written
    found = piece_reader(of)(written)
    assert isinstance(found, memoryview)
    assert found == piece[:size]


def test_other_messages_go_through_the_runtime() -> None:
    messages = (
        UploadBlobRequest(start=UploadStart(sha256="x", size_bytes=4)),
        UploadBlobRequest(sha256="x"),
        DownloadBlobResponse(size_bytes=7, chunk=b"both"),
        DownloadBlobResponse(),
    )
    for message in messages:
        assert piece_reader(type(message))(write_message(message)) == message


def test_a_piece_with_something_behind_it_is_read_by_the_runtime() -> None:
    two = write_message(b"first") + write_message(b"second")
    assert piece_reader(UploadBlobRequest)(two) == UploadBlobRequest(chunk=b"second")


@pytest.mark.parametrize("data", [b"\x12", b"\x12\x05abc", b"\x12\xff\xff\xff\xff\xff\xff", b"\x12\x80"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        piece_reader(UploadBlobRequest)(data)
