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
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from tunefleet_core.errors import Reason, from_exception

__all__ = ["SUPERVISED", "configure_logging", "ending_clearly", "read_token", "run_process"]

SUPERVISED = "TUNEFLEET_SUPERVISED"
"""Set for processes that `tunefleet up` started: they end when it does, however it ends."""

Main = Callable[[asyncio.TaskGroup], Awaitable[None]]
Stop = Callable[[], Coroutine[Any, Any, None]]


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


def run_process(main: Main, stop: Stop | None = None) -> None:
    """Run a process until TERM or INT, then cancel its tasks and wait for them; exits 1 on an error.

    Args:
        main: What it does.
        stop: Called on the first of these signals, beside `main`: what is to be done before tasks are
            cancelled. It is cut short by the next signal, and by the end of a supervisor.
    """
    configure_logging()
    faulthandler.register(signal.SIGUSR1)  # a process that hangs says where: kill -USR1
    with ending_clearly():
        asyncio.run(_run(main, stop))


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


async def _run(main: Main, stop: Stop | None) -> None:
    asked, at_once = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    if SUPERVISED in os.environ:
        # The supervisor holds the other end of standard input: its end is our end.
        loop.add_reader(sys.stdin.fileno(), lambda: at_once.set() if not os.read(0, 1) else None)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: (at_once if asked.is_set() else asked).set())
    async with asyncio.TaskGroup() as group:
        work = group.create_task(_forever(main))
        await _first(work, asked.wait(), at_once.wait())
        if stop is not None and not at_once.is_set() and not work.done():
            await _first(work, stop(), at_once.wait())
        work.cancel()


async def _forever(main: Main) -> None:
    async with asyncio.TaskGroup() as group:
        await main(group)


async def _first(work: asyncio.Task[None], *others: Coroutine[Any, Any, object]) -> None:
    """Return when the work or one of the others has ended; the others are cancelled then."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(other) for other in others]
        await asyncio.wait((work, *tasks), return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
