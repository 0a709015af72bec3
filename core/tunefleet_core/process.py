"""What our long-running processes have in common: logging, signals, a task group that ends."""

from __future__ import annotations

import asyncio
import faulthandler
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from tunefleet_core.errors import Reason, from_exception

__all__ = ["SUPERVISED", "configure_logging", "ending_clearly", "read_token", "run_process"]

SUPERVISED = "TUNEFLEET_SUPERVISED"
"""Set for processes that `tunefleet up` started: they end when it does, however it ends."""

Main = Callable[[asyncio.TaskGroup], Awaitable[None]]


class _JsonFormatter(logging.Formatter):
    """One JSON object per line, with the ids that tie lines of several processes together."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": f"{_second(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in ("request", "job", "attempt"):
            if (value := getattr(record, name, None)) is not None:
                entry[name] = value
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


@lru_cache(maxsize=1)
def _second(time_seconds: int) -> str:
    """Return the time of a line to the second; a busy process writes many within one."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time_seconds))


def configure_logging(level: int = logging.INFO) -> None:
    """Log as JSON lines on stderr."""
    # Of a line nobody here reads who wrote it: https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None  # pyright: ignore[reportPrivateUsage]  # no walk up the stack
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def read_token(file: Path) -> str:
    """Return the token in a file."""
    return file.read_text().strip()


def run_process(main: Main) -> None:
    """Run a process until TERM or INT, then cancel its tasks and wait for them; exits 1 on an error."""
    configure_logging()
    faulthandler.register(signal.SIGUSR1)  # a process that hangs says where: kill -USR1
    with ending_clearly():
        asyncio.run(_run(main))


@contextmanager
def ending_clearly() -> Generator[None]:
    """Exit 1 on an error, with one line of the log that says what it was and what to do."""
    try:
        yield
    except Exception as error:  # groups too: what a process dies of is the last line of its log
        typed = from_exception(error)
        fault = error if typed.reason is Reason.INTERNAL else None
        if not logging.getLogger().handlers:
            configure_logging()
        logging.getLogger(__name__).error("%s %s", typed.message, typed.hint, exc_info=fault)
        sys.exit(1)


async def _run(main: Main) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    if SUPERVISED in os.environ:
        # The supervisor holds the other end of standard input: its end is our end.
        loop.add_reader(sys.stdin.fileno(), lambda: stopping.set() if not os.read(0, 1) else None)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with asyncio.TaskGroup() as group:
        work = group.create_task(_forever(main))
        await _first(stopping, work)
        work.cancel()


async def _forever(main: Main) -> None:
    async with asyncio.TaskGroup() as group:
        await main(group)


async def _first(stopping: asyncio.Event, work: asyncio.Task[None]) -> None:
    async with asyncio.TaskGroup() as group:
        waiter = group.create_task(stopping.wait())
        await asyncio.wait((waiter, work), return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
