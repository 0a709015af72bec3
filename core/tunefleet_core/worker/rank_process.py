"""A rank process as its host sees it: spawn it or have it forked, talk to it, see it end."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from tunefleet.backend.v1.rank_pb2 import RankCommand, RankReport
from tunefleet_core.worker.forked_process import ForkedProcess, fork_rank
from tunefleet_core.worker.framing import pack, read_frame_async

__all__ = ["LogLine", "RankProcess"]

_PIPE_BYTES = 1 << 20
_LINE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A line that a rank process printed."""

    stream: str
    text: str


@dataclass(slots=True, kw_only=True)
class RankProcess:
    """Owns one rank process. `reports` ends when the process has closed its pipe."""

    process: asyncio.subprocess.Process | ForkedProcess
    reader: asyncio.StreamReader
    reader_transport: asyncio.ReadTransport
    write_fd: int
    is_warm: bool = False
    _write_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    async def spawn(cls, entry: str, *, warm: bool) -> RankProcess:
        """Start a rank process. It inherits the marker of this process's environment."""
        return await cls._open(
            lambda read_fd, write_fd: _spawn(entry, (read_fd, write_fd), warm=warm), warm=warm
        )

    @classmethod
    async def fork(cls, parent: str) -> RankProcess:
        """Have a rank process forked by the parent that listens on a socket.

        It is warm, and carries the marker as if it were spawned.

        Raises:
            CannotForkError: It has to be spawned.
        """
        return await cls._open(
            lambda read_fd, write_fd: fork_rank(parent, (read_fd, write_fd), line_bytes=_LINE_BYTES),
            warm=True,
        )

    @classmethod
    async def _open(
        cls,
        start: Callable[[int, int], Awaitable[asyncio.subprocess.Process | ForkedProcess]],
        *,
        warm: bool,
    ) -> RankProcess:
        from_host_read, from_host_write = os.pipe()
        to_host_read, to_host_write = os.pipe()
        try:
            process = await start(from_host_read, to_host_write)
        except BaseException:
            os.close(from_host_write)
            os.close(to_host_read)
            raise
        finally:
            os.close(from_host_read)
            os.close(to_host_write)
        reader = asyncio.StreamReader(limit=_PIPE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(to_host_read, "rb", buffering=0)
        )
        return cls(
            process=process,
            reader=reader,
            reader_transport=transport,
            write_fd=from_host_write,
            is_warm=warm,
        )

    async def send(self, command: RankCommand) -> None:
        """Send a command. A process that is gone already is not an error: its end is reported."""
        async with self._write_lock:
            try:
                await asyncio.to_thread(_write_all, self.write_fd, pack(command))
            except (BrokenPipeError, OSError):
                return

    async def next_report(self) -> RankReport | None:
        """Return the next report; None when the process has closed its pipe."""
        return await read_frame_async(self.reader, RankReport)

    async def lines(self, name: str) -> AsyncIterator[LogLine]:
        """Yield what the process prints on `stdout` or `stderr`, line by line."""
        stream = self.process.stdout if name == "stdout" else self.process.stderr
        assert stream is not None  # both are pipes, see spawn
        while True:
            try:
                raw = await stream.readline()
            except ValueError:  # a line beyond the limit: the reader drops it and goes on
                yield LogLine(stream=name, text=f"[a line of more than {_LINE_BYTES} bytes was dropped]")
                continue
            if not raw:
                return
            yield LogLine(stream=name, text=raw.decode("utf-8", "replace").rstrip("\r\n"))

    async def wait(self) -> int:
        """Reap the process and return its exit code, negative for a signal."""
        return await self.process.wait()

    async def leave(self, *, within_seconds: float) -> None:
        """Let a process that has said its last word flush and exit; returns after the limit at the latest.

        Nothing is sent to it: a closed pipe or TERM would cut its output off, and a signal
        to a process that has just died takes its exit code away from whoever waits for it.
        """
        try:
            async with asyncio.timeout(within_seconds):
                await self.process.wait()
        except TimeoutError:
            return

    async def end(self, *, grace_seconds: float) -> None:
        """TERM, then KILL after the grace; returns when the process is reaped."""
        self._close_pipe()
        if self.process.returncode is None:
            self._signal(self.process.terminate)
            try:
                async with asyncio.timeout(grace_seconds):
                    await self.process.wait()
            except TimeoutError:
                self._signal(self.process.kill)
                await self.process.wait()
        self.reader_transport.close()
        if isinstance(self.process, ForkedProcess):
            self.process.close()

    def _close_pipe(self) -> None:
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    @staticmethod
    def _signal(send: Callable[[], None]) -> None:
        try:
            send()
        except ProcessLookupError:
            return


async def _spawn(entry: str, pipes: tuple[int, int], *, warm: bool) -> asyncio.subprocess.Process:
    read_fd, write_fd = pipes
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tunefleet_core.worker.rank",
        "--entry",
        entry,
        "--read-fd",
        str(read_fd),
        "--write-fd",
        str(write_fd),
        *(["--warm"] if warm else []),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=(read_fd, write_fd),
        limit=_LINE_BYTES,
    )


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
