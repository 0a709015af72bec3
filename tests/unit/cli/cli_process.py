"""The real command in a process of its own: in a pipe, or at a terminal.

Not in conftest.py: that name is one for all folders of tests, and these are imported.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Ended", "in_a_terminal", "run", "start"]

# A test run in the background of a shell hands down an ignored SIGINT. It is undone in
# the child: a preexec_fn would fork beside the live gRPC server of the test.
_PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from tunefleet_cli.main import main; main()"
)
# Ctrl-C reaches a process only through the terminal that controls its session.
_LEAD = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int | None
    stdout: str
    stderr: str


async def start(
    *arguments: str, environment: Mapping[str, str] | None = None, stdin: int = asyncio.subprocess.DEVNULL
) -> asyncio.subprocess.Process:
    """Start the real command."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _PROGRAM,
        *arguments,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )


async def run(*arguments: str, stdin: bytes = b"") -> Ended:
    """Run the real command to its end."""
    process = await start(*arguments, stdin=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        stdout, stderr = await process.communicate(stdin)
    return Ended(code=process.returncode, stdout=stdout.decode(), stderr=stderr.decode())


def in_a_terminal(
    *arguments: str, keys: Sequence[tuple[str, str]] = (), columns: int = 80
) -> tuple[str, int]:
    """Run the command on a pseudo-terminal; return what it showed and its exit code.

    Args:
        arguments: Of the command.
        keys: Text to wait for, counted from the last one, and what is typed then.
        columns: Width of the terminal.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 32, columns, 0, 0))

    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _LEAD + _PROGRAM, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
    finally:
        os.close(theirs)
    shown, seen, waiting = b"", 0, list(keys)
    while True:
        while waiting and waiting[0][0].encode() in shown[seen:]:
            seen = shown.index(waiting[0][0].encode(), seen) + len(waiting[0][0].encode())
            os.write(ours, waiting.pop(0)[1].encode())
        if not select.select([ours], [], [], 30)[0]:
            process.kill()
            raise AssertionError(f"nothing is shown any more, after: {shown.decode(errors='replace')!r}")
        try:
            part = os.read(ours, 65_536)
        except OSError:  # Linux says EIO when the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return shown.decode(errors="replace"), process.wait(timeout=60)
