"""The processes of a local fleet: started, watched, started again when they die."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tunefleet_core.process import SUPERVISED

__all__ = ["Child", "ChildSpec"]

_LOG = logging.getLogger(__name__)
_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 10.0
_GOOD_LIFE_SECONDS = 10.0  # a process that lived so long starts again at once
_TERM_GRACE_SECONDS = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """How to start a process of the fleet."""

    name: str
    argv: tuple[str, ...]
    log: Path
    grace_seconds: float
    """How long it may take to end after TERM; then it is killed."""


class Child:
    """Keeps one process running until told to stop."""

    def __init__(self, spec: ChildSpec, environment: dict[str, str], changed: Callable[[], None]) -> None:
        self.spec = spec
        self.starts = 0
        self._environment = {**environment, SUPERVISED: "1"}
        self._changed = changed
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 while it is down."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    def last_words(self) -> str:
        """Return the last thing that the process logged."""
        try:
            lines = self.spec.log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            lines = []
        last = next((line for line in reversed(lines) if line.strip()), "it logged nothing")
        try:
            return str(json.loads(last)["message"])
        except (ValueError, KeyError, TypeError):
            return last  # not a line of ours: the end of a traceback

    async def run(self) -> None:
        """Start the process, and again with a growing pause whenever it ends by itself."""
        loop = asyncio.get_running_loop()
        wait = _FIRST_WAIT_SECONDS
        while not self._stopping.is_set():
            began = loop.time()
            code = await self._run_once()
            if self._stopping.is_set():
                return
            _LOG.warning("%s ended with code %s; see %s", self.spec.name, code, self.spec.log)
            wait = _FIRST_WAIT_SECONDS if loop.time() - began > _GOOD_LIFE_SECONDS else wait
            try:
                async with asyncio.timeout(wait):
                    await self._stopping.wait()
            except TimeoutError:
                wait = min(wait * 2, _LONGEST_WAIT_SECONDS)

    def stop(self) -> None:
        """Stop the process and let `run` return."""
        self._stopping.set()

    def hurry(self) -> None:
        """Have a process that is being stopped do so at once, by a second signal."""
        self._hurrying.set()

    async def _run_once(self) -> int:
        self.spec.log.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                *self.spec.argv,
                stdin=asyncio.subprocess.PIPE,  # its end tells the child that the supervisor is gone
                stdout=descriptor,
                stderr=descriptor,
                env=self._environment,
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops in order
            )
        finally:
            os.close(descriptor)
        self._process = process
        self.starts += 1
        self._changed()
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(process.wait())
            stopping = group.create_task(self._stopping.wait())
            await asyncio.wait((ended, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not ended.done():
                await self._terminate(process, ended)
            code = await ended
        self._changed()
        return code

    async def _terminate(self, process: asyncio.subprocess.Process, ended: asyncio.Task[int]) -> None:
        """Ask a process to end, again when it is to hurry, then kill it."""
        process.terminate()
        async with asyncio.TaskGroup() as group:
            hurrying = group.create_task(self._hurrying.wait())
            grace = self.spec.grace_seconds
            await asyncio.wait((ended, hurrying), timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            hurrying.cancel()
        if not ended.done() and self._hurrying.is_set():
            process.terminate()
            await asyncio.wait((ended,), timeout=_TERM_GRACE_SECONDS)
        if not ended.done():
            process.kill()
