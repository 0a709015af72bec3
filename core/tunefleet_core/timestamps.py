"""Wall-clock times as the wire carries them."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

__all__ = ["timestamp_now", "timestamp_of"]


def timestamp_now() -> Timestamp:
    """Return this moment by the machine's clock."""
    now = Timestamp()
    now.GetCurrentTime()
    return now


def timestamp_of(seconds: float) -> Timestamp:
    """Return wall-clock seconds since the epoch as a timestamp, to the microsecond."""
    value = Timestamp()
    value.FromMicroseconds(round(seconds * 1e6))
    return value
