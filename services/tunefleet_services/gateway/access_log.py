"""One JSON line per request, written by a thread of its own.

Standard error may be a pipe that nobody reads. Written on the event loop, one full pipe
would stop every stream; so lines wait in a bounded queue, and what does not fit is
dropped and counted. The thread wakes some fifty times a second at most and writes all
that waits, so that under load it is not woken for each line.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

__all__ = ["AccessLog"]

_CAPACITY_LINES = 10_000
_GATHER_SECONDS = 0.02
_STOP_SECONDS = 1.0


class AccessLog:
    """Writes access log records to a text stream.

    Example:
        >>> log = AccessLog(sys.stdout)
        >>> log.start()
        >>> log.write({"event": "request"})
        >>> log.stop()  # doctest: +ELLIPSIS
        {"time": "...", "event": "request"}
    """

    def __init__(self, stream: TextIO | None = None, *, capacity_lines: int = _CAPACITY_LINES) -> None:
        self._stream = stream
        self._capacity_lines = capacity_lines
        self._lines: deque[str] = deque()
        self._has_lines = threading.Event()
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        self.dropped = 0
        """Lines that were not written: too many waited, or the stream is closed."""

    def start(self) -> None:
        """Begin to write."""
        # A daemon, so that a stream that blocks for ever cannot keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, for a second at most, and end."""
        if self._thread is None:
            return
        self._is_stopping = True
        self._has_lines.set()
        self._thread.join(timeout=_STOP_SECONDS)
        self._thread = None

    def write(self, record: Mapping[str, object]) -> None:
        """Queue a record. Never blocks."""
        if len(self._lines) >= self._capacity_lines:
            self.dropped += 1
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._lines.append(json.dumps({"time": now, **record}) + "\n")
        if not self._has_lines.is_set():
            self._has_lines.set()

    def _run(self) -> None:
        while not self._is_stopping:
            self._has_lines.wait()
            if not self._is_stopping:
                time.sleep(_GATHER_SECONDS)
            # Cleared before the queue is emptied: a line that comes in between sets it again.
            self._has_lines.clear()
            self._write_waiting()
        self._write_waiting()

    def _write_waiting(self) -> None:
        # Looked up late: standard error may be replaced after the log was made.
        stream = self._stream or sys.stderr
        waiting = [self._lines.popleft() for _ in range(len(self._lines))]
        try:
            stream.write("".join(waiting))
            stream.flush()
        except (OSError, ValueError):  # a broken pipe; a closed file
            self.dropped += len(waiting)
