"""A process that may outlive the one that starts it.

One of asyncio's does not: its transport kills a child that still runs when the transport is collected, which
from Python 3.12 on is at the latest when the loop closes
(`BaseSubprocessTransport.close`, https://github.com/python/cpython/blob/3.13/Lib/asyncio/base_subprocess.py).
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO

__all__ = ["LastingProcess"]

_POLL_SECONDS = 0.05


class LastingProcess:
    """A process in a session of its own, reaped by whoever asks for its end.

    Args:
        words: The command.
        environment: All its variables.
        output: Where what it says goes.
        holds_input: Whether it gets a pipe that ends with this process; else it reads nothing.
        pass_fds: Descriptors that it inherits.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        environment: Mapping[str, str],
        output: IO[bytes],
        holds_input: bool = False,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE if holds_input else subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
            pass_fds=pass_fds,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """Kill it, if it still runs."""
        self._process.kill()

    def end_input(self) -> None:
        """Close the pipe that it holds, if it got one."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def wait(self) -> int:
        """Return its exit code when it has ended."""
        while (code := self.returncode) is None:
            await asyncio.sleep(_POLL_SECONDS)
        return code
