"""Frames on a pipe: a 4-byte big-endian length, then a protobuf message."""

from __future__ import annotations

import asyncio
import struct
from typing import BinaryIO, TypeVar

from google.protobuf.message import Message

__all__ = ["FrameError", "pack", "read_frame", "read_frame_async"]

_HEADER = struct.Struct(">I")
_MAX_BYTES = 256 << 20  # an order carries tensor lists of very large models; more is a fault

M = TypeVar("M", bound=Message)


class FrameError(Exception):
    """The stream broke inside a frame or announced an impossible length."""


def pack(message: Message) -> bytes:
    """Return a message as a frame."""
    body = message.SerializeToString()
    return _HEADER.pack(len(body)) + body


def read_frame(stream: BinaryIO, kind: type[M]) -> M | None:
    """Read one frame, blocking; None at a clean end of the stream."""
    header = stream.read(_HEADER.size)
    if not header:
        return None
    if len(header) < _HEADER.size:
        raise FrameError("the stream ended inside a frame")
    body = stream.read(_checked(header))
    if len(body) < _checked(header):
        raise FrameError("the stream ended inside a frame")
    return kind.FromString(body)


async def read_frame_async(stream: asyncio.StreamReader, kind: type[M]) -> M | None:
    """Read one frame; None at the end of the stream, also in the middle of a frame.

    A peer that is killed while it writes leaves half a frame: that is its end.
    """
    try:
        header = await stream.readexactly(_HEADER.size)
        return kind.FromString(await stream.readexactly(_checked(header)))
    except asyncio.IncompleteReadError:
        return None


def _checked(header: bytes) -> int:
    (length,) = _HEADER.unpack(header)
    if length > _MAX_BYTES:
        raise FrameError(f"a frame of {length} bytes is over the limit of {_MAX_BYTES}")
    return int(length)
