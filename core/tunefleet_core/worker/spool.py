"""The event spool: an attempt's events on the trainer's disk, in order, and never too many.

Each record is a length, a CRC-32 and a serialised JobEvent. A record that was
cut by a crash is ignored on reading and overwritten on writing. The spool
outlives its writer: whoever adopts the attempt reads on from any sequence.

It is a row of files: `events.spool`, then `events.spool.<first sequence>` whenever one is
full. Whoever hands events over removes the files that the coordinator has (`release_spool`).
While what is left takes more than the limit, numbers, samples and printed lines are left out,
and an event says how many; everything else is always kept.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from tunefleet.job.v1.event_pb2 import Gap, JobEvent
from tunefleet_core.artifacts import naming_full_disk
from tunefleet_core.timestamps import timestamp_now

__all__ = ["EventSpool", "SpoolTail", "read_spool", "release_spool"]

_HEADER = struct.Struct(">II")
_LIMIT_BYTES = 256 << 20
_FILES_PER_LIMIT = 16
_CAN_BE_LEFT_OUT = frozenset({"metrics", "log_lines", "sample"})


def read_spool(path: Path, after: int = 0) -> Iterator[JobEvent]:
    """Yield the whole events of a spool with a source sequence above `after`."""
    for _, file in _files(path):
        for event, _ in _records(file):
            if event.source_sequence > after:
                yield event


def release_spool(path: Path, acknowledged: int) -> None:
    """Remove the files of a spool that hold nothing beyond a source sequence; the newest stays."""
    files = _files(path)
    for (_, file), (next_first, _) in itertools.pairwise(files):
        if next_first <= acknowledged + 1:
            file.unlink(missing_ok=True)


class EventSpool:
    """Appends events and numbers them from 1. One writer per spool.

    Args:
        path: Its first file.
        limit_bytes: Most bytes that it may take before events are left out.
    """

    def __init__(self, path: Path, *, limit_bytes: int = _LIMIT_BYTES) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._sizes: dict[Path, int] = {}
        self._dropped = 0
        self.last_source_sequence = 0
        files = _files(path) or [(1, path)]
        for _, file in files[:-1]:
            self._sizes[file] = file.stat().st_size
        first, self._file = files[-1]
        self.last_source_sequence = first - 1
        self._end = 0
        if self._file.exists():
            for event, end in _records(self._file):
                self.last_source_sequence = event.source_sequence
                self._end = end
        self._descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT, 0o644)
        os.ftruncate(self._descriptor, self._end)

    def append(self, event: JobEvent) -> bool:
        """Number an event and write it. Returns whether it was kept; raises OSError, then it was not."""
        can_be_left_out = event.WhichOneof("payload") in _CAN_BE_LEFT_OUT
        if can_be_left_out and self._is_full(event.ByteSize()):
            self._dropped += 1
            return False
        if self._dropped:
            self._tell_gap(event.attempt)
        self._write(event)
        return True

    def close(self) -> None:
        """Close the file. The spool can be opened again."""
        try:
            if self._dropped:
                self._tell_gap(attempt=0)
        finally:
            os.close(self._descriptor)

    def _tell_gap(self, attempt: int) -> None:
        gap = JobEvent(attempt=attempt, create_time=timestamp_now(), gap=Gap(dropped=self._dropped))
        self._write(gap)
        self._dropped = 0

    def _is_full(self, more_bytes: int) -> bool:
        def taken() -> int:
            return sum(self._sizes.values()) + self._end + more_bytes + _HEADER.size

        # Once full it stays so until there is some room, or gaps would be as many as events.
        limit = self._limit_bytes - (self._limit_bytes // _FILES_PER_LIMIT if self._dropped else 0)
        if taken() <= limit:
            return False
        self._sizes = {file: size for file, size in self._sizes.items() if file.exists()}  # else released
        return taken() > limit

    def _write(self, event: JobEvent) -> None:
        if self._end >= self._limit_bytes // _FILES_PER_LIMIT:
            self._begin_file()
        event.source_sequence = self.last_source_sequence + 1
        body = event.SerializeToString()
        record = _HEADER.pack(len(body), zlib.crc32(body)) + body
        try:
            with naming_full_disk(self._file):
                if os.pwrite(self._descriptor, record, self._end) != len(record):
                    # A short write on a regular file means that the disk is full.
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(self._descriptor, self._end)
            raise
        self._end += len(record)
        self.last_source_sequence = event.source_sequence

    def _begin_file(self) -> None:
        file = self._path.with_name(f"{self._path.name}.{self.last_source_sequence + 1:012d}")
        with naming_full_disk(file):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.close(self._descriptor)
        self._sizes[self._file] = self._end
        self._descriptor, self._file, self._end = descriptor, file, 0


class SpoolTail:
    """Reads on from where it stopped, while another part of the process appends."""

    def __init__(self, path: Path, after: int) -> None:
        self._path = path
        self._after = after
        self._file: Path | None = None
        self._offset = 0

    def read(self, limit: int) -> list[JobEvent]:
        """Return up to `limit` events that came since the last call."""
        events: list[JobEvent] = []
        while True:
            following = self._following()  # looked up first: then what this file holds is all it ever will
            self._read_file(events, limit)
            if len(events) == limit or following is None:
                return events
            self._file, self._offset = following, 0

    def _following(self) -> Path | None:
        """Return the file after the present one, if there is one; begin with the first that matters."""
        files = _files(self._path)
        if self._file is None:
            begun = [file for first, file in files if first <= self._after + 1]
            self._file = begun[-1] if begun else files[0][1] if files else self._path
        later = [file for _, file in files if file.name > self._file.name]
        return later[0] if later else None

    def _read_file(self, events: list[JobEvent], limit: int) -> None:
        if self._file is None or not self._file.exists():
            return  # released: everything in it was handed over
        for event, end in _records(self._file, self._offset):
            self._offset = end
            if event.source_sequence > self._after:
                events.append(event)
                if len(events) == limit:
                    return


def _files(path: Path) -> list[tuple[int, Path]]:
    """Return the files of a spool with the first sequence of each, oldest first."""
    files = [(1, path)] if path.exists() else []
    for file in sorted(path.parent.glob(f"{path.name}.*")):
        files.append((int(file.name.removeprefix(f"{path.name}.")), file))
    return files


def _records(path: Path, start: int = 0) -> Iterator[tuple[JobEvent, int]]:
    end = start
    with path.open("rb") as stream:
        stream.seek(start)
        while len(header := stream.read(_HEADER.size)) == _HEADER.size:
            length, checksum = _HEADER.unpack(header)
            body = stream.read(length)
            if len(body) < length or zlib.crc32(body) != checksum:
                return
            end += _HEADER.size + length
            yield JobEvent.FromString(body), end
