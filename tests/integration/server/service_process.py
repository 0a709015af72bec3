"""A real service process of the fleet, and what it left on its disk."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from tunefleet_core.worker.marker import end_marked, marked_processes

STOP_SECONDS = 20.0


@dataclass
class EngineOnDisk:
    """An engine as its server recorded it."""

    mark: str
    host_pid: int
    served_name: str
    socket: Path
    """Of its contract host."""

    @property
    def engine_pid(self) -> int:
        """The engine's process: the only child of its contract host."""
        (child,) = psutil.Process(self.host_pid).children()
        return child.pid


class ServiceProcess:
    """Starts `python -m MODULE` for a state folder; ended by TERM, KILL, or with the test."""

    def __init__(self, module: str, *, port: int, state: Path, python: str = sys.executable) -> None:
        self._module = module
        self._python = python
        self._port = port
        self.state = state
        self.log = state / "service.log"
        self._process: asyncio.subprocess.Process | None = None
        self._marks: set[str] = set()

    async def start(self, *options: str) -> None:
        token = self.state / "token"
        token.write_text("tf-test-token\n")
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                self._python,
                "-m",
                self._module,
                "--address",
                f"127.0.0.1:{self._port}",
                "--token-file",
                str(token),
                "--state",
                str(self.state),
                *options,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def kill(self) -> None:
        """SIGKILL the service, and only it."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> int:
        """TERM the service and return its exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                await self.kill()
        assert self._process.returncode is not None
        return self._process.returncode

    def engines(self) -> list[EngineOnDisk]:
        """Return the engines the server has now."""
        found: list[EngineOnDisk] = []
        for path in sorted(self.state.glob("services/*/engines/*/engine.json")):
            content = json.loads(path.read_text())
            host = content["host"]
            found.append(
                EngineOnDisk(
                    mark=host["mark"],
                    host_pid=host["pid"],
                    served_name=content["spec"]["served_name"],
                    socket=Path(host["socket"]),
                )
            )
            self._marks.add(host["mark"])
        return found

    def log_lines(self) -> str:
        """Return the service's log, for messages of failures."""
        return self.log.read_text()

    async def clean_up(self) -> None:
        """End the service and every process that it ever recorded."""
        self.engines()
        if self._process is not None:
            await self.stop()
        self.engines()
        for mark in self._marks:
            await asyncio.to_thread(end_marked, mark)


def count_marked(mark: str) -> int:
    """Return how many processes carry a marker."""
    return len(marked_processes(mark))
