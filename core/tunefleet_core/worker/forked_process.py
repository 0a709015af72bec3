"""A process that a rank parent forked, with the face of one of asyncio's own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tunefleet_core.worker.marker import MARKER
from tunefleet_core.worker.rank_request import RankRequest, own_environment

__all__ = ["CannotForkError", "ForkedProcess", "fork_rank"]

_ANSWER_SECONDS = 120.0  # as long as imports may take on a busy machine
_UNKNOWN_EXIT = 255  # what asyncio says of a child whose exit code somebody else took


class CannotForkError(Exception):
    """The parent is gone, or does not do it; the message says why."""


@dataclass(slots=True, kw_only=True, eq=False)
class ForkedProcess:
    """One process. The parent reaps it and tells how it ended; everything else is its owner's.

    Attributes:
        pid: Its process id.
        stdout: What it prints.
        stderr: What it complains of.
    """

    pid: int
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader
    _descriptor: int  # refers to this very process, though its pid be used again
    _leash: int
    _exit: asyncio.Future[int]
    _transports: list[asyncio.BaseTransport] = field(default_factory=list[asyncio.BaseTransport])

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._exit.result() if self._exit.done() else None

    async def wait(self) -> int:
        """Return the exit code when it has ended."""
        return await asyncio.shield(self._exit)

    def terminate(self) -> None:
        """Send TERM.

        Raises:
            ProcessLookupError: It has ended.
        """
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send KILL.

        Raises:
            ProcessLookupError: It has ended.
        """
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Give back the descriptors of a process that has ended."""
        for transport in self._transports:
            transport.close()
        for descriptor in (self._descriptor, self._leash):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._leash = -1

    def send_signal(self, number: int) -> None:
        """Send a signal.

        Raises:
            ProcessLookupError: It has ended.
        """
        if self._exit.done() or self._descriptor < 0:
            raise ProcessLookupError(self.pid)
        signal.pidfd_send_signal(self._descriptor, number)


async def fork_rank(parent: str, pipes: Sequence[int], *, line_bytes: int) -> ForkedProcess:
    """Have the parent that listens on a socket fork a rank process.

    Args:
        parent: Path of its socket.
        pipes: Descriptors that the process reads from and writes to. They stay the caller's.
        line_bytes: The longest line of its output that is read.

    Raises:
        CannotForkError: It has to be started otherwise.
    """
    loop = asyncio.get_running_loop()
    ends = {name: os.pipe() for name in ("stdout", "stderr", "leash")}
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    try:
        request = RankRequest(mark=os.environ.get(MARKER, ""), environment=own_environment())
        theirs = [*pipes, ends["stdout"][1], ends["stderr"][1], ends["leash"][0]]
        async with asyncio.timeout(_ANSWER_SECONDS):
            await loop.sock_connect(connection, parent)
            socket.send_fds(connection, [request.pack()], theirs)
            answer, descriptor = await _answer(connection)
    except BaseException as error:
        _close(ends["stdout"][0], ends["stderr"][0], ends["leash"][1])
        connection.close()
        if isinstance(error, OSError | ValueError | TimeoutError):
            raise CannotForkError(f"{type(error).__name__}: {error}") from error
        raise  # cancelled
    finally:
        _close(ends["stdout"][1], ends["stderr"][1], ends["leash"][0])
    readers, transports = list[asyncio.StreamReader](), list[asyncio.BaseTransport]()
    for name in ("stdout", "stderr"):
        reader = asyncio.StreamReader(limit=line_bytes)
        transport, _ = await loop.connect_read_pipe(
            lambda reader=reader: asyncio.StreamReaderProtocol(reader),
            os.fdopen(ends[name][0], "rb", buffering=0),
        )
        readers.append(reader)
        transports.append(transport)
    exit_code: asyncio.Future[int] = loop.create_future()
    transport, _ = await loop.create_unix_connection(
        lambda: _ExitTold(exit_code, descriptor), sock=connection
    )
    return ForkedProcess(
        pid=int(answer["pid"]),
        stdout=readers[0],
        stderr=readers[1],
        _descriptor=descriptor,
        _leash=ends["leash"][1],
        _exit=exit_code,
        _transports=[*transports, transport],
    )


async def _answer(connection: socket.socket) -> tuple[dict[str, int], int]:
    """Return what the parent answers, and the descriptor of the new process.

    Raises:
        ValueError: It refuses, with its reason.
    """
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(connection, lambda: readable.done() or readable.set_result(None))
    try:
        await readable
    finally:
        loop.remove_reader(connection)
    # Only this one line is there: the next one comes when the process has ended, and is read by byte.
    text, descriptors, _, _ = socket.recv_fds(connection, _line_length(connection), 1)
    answer = json.loads(text or b'{"refused": "it has ended"}')
    if "refused" in answer or not descriptors:
        _close(*descriptors)
        raise ValueError(answer.get("refused", "it named no process"))
    return answer, descriptors[0]


def _line_length(connection: socket.socket) -> int:
    seen = connection.recv(1 << 16, socket.MSG_PEEK)
    return seen.find(b"\n") + 1 or max(1, len(seen))


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class _ExitTold(asyncio.Protocol):
    """Takes the exit code from the parent; if that has died, the end from the kernel, without a code."""

    def __init__(self, exit_code: asyncio.Future[int], descriptor: int) -> None:
        self._exit = exit_code
        self._descriptor = descriptor
        self._text = b""

    def data_received(self, data: bytes) -> None:
        self._text += data
        if self._text.endswith(b"\n") and not self._exit.done():
            self._exit.set_result(int(json.loads(self._text)["exit"]))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._exit.done():
            with suppress(OSError, ValueError):  # closed by an owner that no longer waits
                asyncio.get_running_loop().add_reader(self._descriptor, self._ended)

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        if not self._exit.done():
            self._exit.set_result(_UNKNOWN_EXIT)
