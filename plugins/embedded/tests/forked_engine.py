"""An engine forked from a process that has imported all that an engine needs; else it is started as ever.

Most of a start is imports, which are the same for every model. Ranks are forked in the same way.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import IO

from engine_process import EngineProcess

__all__ = ["ForkedEngine"]

_ENTRY = "tunefleet_embedded.engine.__main__"


class ForkedEngine(EngineProcess):
    """The same context; what differs is where the process comes from."""

    def _started(self) -> Forked:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([_ENTRY])
        output, for_output = context.Pipe(duplex=False)
        errors, for_errors = context.Pipe(duplex=False)
        process = context.Process(
            target=_serve, args=(self._command[3:], self._environment, for_output, for_errors)
        )
        process.start()
        for_output.close()
        for_errors.close()
        return Forked(process=process, stdout=_text(output), stderr=_text(errors))


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked:
    """What the tests use of a `Popen`."""

    process: ForkServerProcess
    stdout: IO[str]
    stderr: IO[str]

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.process.kill()

    def wait(self, seconds: float | None = None) -> int | None:
        self.process.join(seconds)
        if self.process.exitcode is None:
            raise TimeoutError
        return self.process.exitcode


def _text(pipe: Connection) -> IO[str]:
    stream = os.fdopen(os.dup(pipe.fileno()))
    pipe.close()
    return stream


def _serve(
    arguments: list[str], environment: dict[str, str], for_output: Connection, for_errors: Connection
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for pipe, number in ((for_output, 1), (for_errors, 2)):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    sys.argv[1:] = arguments
    from tunefleet_embedded.engine.__main__ import main

    main()
