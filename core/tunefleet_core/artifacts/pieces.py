"""Pieces of blobs on the wire, without the copies of the protobuf runtime.

A piece is one `bytes` field of up to 1 MiB. The runtime copies it twice on each side, into memory that
the kernel has to clear first, which was most of what sending cost (1.4 of 1.6 CPU seconds per GB). So a
message that carries a piece and nothing else is written and read here: the same bytes, one copy less
each way. All other messages go through the runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from google.protobuf.message import Message

from tunefleet.artifact.v1.blob_service_pb2 import DownloadBlobResponse, UploadBlobRequest

__all__ = ["PIECE_BYTES", "Piece", "keep_freed_memory", "piece_reader", "write_message"]

PIECE_BYTES = 1 << 20
"""The largest piece; smaller ones cost more calls, larger ones only memory."""

Piece: TypeAlias = bytes | memoryview

_TAG = 0x12
"""Field 2, length-delimited: `chunk`, in both directions."""

for _message in (UploadBlobRequest, DownloadBlobResponse):
    assert _message.DESCRIPTOR.fields_by_name["chunk"].number == _TAG >> 3

_Message = TypeVar("_Message", bound=Message)

_KEPT_BYTES = 8 << 20


def keep_freed_memory() -> None:
    """Make this process keep the memory of pieces for the next ones; call it before a transfer.

    The C library of Linux gives a freed block of this size back to the kernel, which clears it anew for
    the next piece: a third of what a transfer cost. Once a larger block was freed, it keeps smaller
    ones (see M_MMAP_THRESHOLD in mallopt(3)). The block is never touched, so it takes no memory.
    """
    _ = bytes(_KEPT_BYTES)


def write_message(message: Message | Piece) -> bytes:
    """Return the bytes on the wire: a piece stands for the message that carries it."""
    if isinstance(message, Message):
        return message.SerializeToString()
    return b"".join((_header(len(message)), message))


def piece_reader(of: type[_Message]) -> Callable[[bytes], _Message | memoryview]:
    """Return a reader of messages of a type; it gives the piece itself for one with nothing else.

    The reader raises `google.protobuf.message.DecodeError` for bytes that are no message.
    """

    def read(data: bytes) -> _Message | memoryview:
        begin = _begin_of_piece(data)
        return of.FromString(data) if begin is None else memoryview(data)[begin:]

    return read


def _header(length: int) -> bytes:
    found = bytearray((_TAG,))
    while length > 0x7F:
        found.append(length & 0x7F | 0x80)
        length >>= 7
    found.append(length)
    return bytes(found)


def _begin_of_piece(data: bytes) -> int | None:
    """Return where the piece begins if the message is one piece from there to its end."""
    if not data or data[0] != _TAG:
        return None
    length = 0
    for position, value in enumerate(data[1:6], start=1):
        length |= (value & 0x7F) << 7 * (position - 1)
        if value < 0x80:
            return position + 1 if position + 1 + length == len(data) else None
    return None
