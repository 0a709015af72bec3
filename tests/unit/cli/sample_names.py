"""The moment at which every view is shown, and what names begin with."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
JOBS = "projects/default/jobs"


def ago(seconds: float) -> Timestamp:
    moment = Timestamp()
    moment.FromMicroseconds(int((NOW.timestamp() - seconds) * 1e6))
    return moment
