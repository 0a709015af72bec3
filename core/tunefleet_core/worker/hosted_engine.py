"""An engine inside its contract host: one child process that speaks OpenAI HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from pathlib import Path

from tunefleet.backend.v1.server_pb2 import AdapterOrder, Engine, EngineOrder, EngineState
from tunefleet.job.v1.event_pb2 import Download
from tunefleet_core.backend.contract import EngineCommand, EngineDriver
from tunefleet_core.errors import Reason, TunefleetError, from_exception, status_from_error
from tunefleet_core.ports import free_ports
from tunefleet_core.worker.base_fetch import fetch_base, is_missing
from tunefleet_core.worker.engine_end import engine_ended

__all__ = ["HostedEngine"]

_READY_POLL_SECONDS = 0.1
_HEALTH_SECONDS = 30.0
_MOST_SILENT = 3
_LAST_LINES_SECONDS = 2.0
_EXIT_POLL_SECONDS = 0.05
_TERM_GRACE_SECONDS = 5.0
_KEPT_LINES = 30


class HostedEngine:
    """Starts an engine, watches it, loads adapters into it, ends it."""

    def __init__(self, order: EngineOrder, driver: EngineDriver) -> None:
        self._order = order
        self._driver = driver
        self._state: EngineState.ValueType = EngineState.ENGINE_STATE_STARTING
        self._error: TunefleetError | None = None
        self._download: Download | None = None
        self._address = ""
        self._adapters: dict[str, str] = {}
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._adapter_lock = asyncio.Lock()

    @property
    def is_ended(self) -> bool:
        """Whether the process is reaped."""
        return self._ended.is_set()

    def describe(self) -> Engine:
        """Return the engine as the contract shows it."""
        engine = Engine(
            engine=self._order.engine,
            state=self._state,
            address=self._address,
            adapters=sorted(self._adapters),
        )
        if self._download is not None:
            engine.download.CopyFrom(self._download)
        if self._error is not None:
            engine.error.CopyFrom(status_from_error(self._error))
        return engine

    async def drive(self) -> None:
        """Run the engine until it ends or is stopped."""
        try:
            if not await self._has_base():
                return
            command = self._driver.command(self._order, free_ports()[0])
            self._process = await asyncio.create_subprocess_exec(
                *command.argv,
                env={**os.environ, **command.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=self._order.work_dir or None,
                start_new_session=True,  # a group of its own, with whatever it starts
            )
            async with asyncio.TaskGroup() as group:
                lines = group.create_task(self._keep_lines(self._process))
                health = group.create_task(self._follow_health(command))
                ended_by_itself = await self._wait_for_end(self._process)
                health.cancel()
                _end_group(self._process)
                await asyncio.wait((lines,), timeout=_LAST_LINES_SECONDS)
                lines.cancel()
            if ended_by_itself:
                self._error = engine_ended(self._process.returncode or 0, tuple(self._lines))
        except TunefleetError as error:
            self._error = error
        except OSError as error:
            self._error = TunefleetError(Reason.BACKEND_FAILED, f"The engine could not be started: {error}")
        finally:
            await self._finish()

    async def stop(self) -> None:
        """End the engine; returns when it is reaped."""
        self._stopping.set()
        await self._ended.wait()

    async def load_adapter(self, order: AdapterOrder) -> None:
        """Load an adapter once; the same name with the same folder again is nothing to do."""
        async with self._adapter_lock:
            self._require_ready()
            if self._adapters.get(order.adapter) == order.path:
                return
            await self._driver.load_adapter(self._address, order)
            self._adapters[order.adapter] = order.path

    async def unload_adapter(self, adapter: str) -> None:
        """Drop an adapter; one that is not loaded is nothing to do."""
        async with self._adapter_lock:
            if adapter in self._adapters:
                self._require_ready()
                await self._driver.unload_adapter(self._address, adapter)
                del self._adapters[adapter]

    async def _has_base(self) -> bool:
        """Fetch the base if the Hub still has it; False if the engine was stopped meanwhile."""
        order = self._order
        if not await asyncio.to_thread(is_missing, order.base_path, order.base_commit):
            return True
        try:
            async with asyncio.TaskGroup() as group:
                fetching = group.create_task(
                    fetch_base(order.base_model, order.base_commit, self._note_download)
                )
                stopping = group.create_task(self._stopping.wait())
                await asyncio.wait((fetching, stopping), return_when=asyncio.FIRST_COMPLETED)
                is_fetched = fetching.done()
                fetching.cancel()
                stopping.cancel()
        except ExceptionGroup as failure:
            raise from_exception(failure) from failure
        finally:
            self._download = None
        return is_fetched

    def _note_download(self, done: Download) -> None:
        self._download = done

    def _require_ready(self) -> None:
        if self._state != EngineState.ENGINE_STATE_READY:
            raise TunefleetError(
                Reason.STATE_CONFLICT,
                f"Engine '{self._order.engine}' is not ready.",
                hint="Wait until it is READY.",
                metadata={"state": EngineState.Name(self._state)},
            )

    async def _follow_health(self, command: EngineCommand) -> None:
        """Wait until the engine answers, and end it once it no longer does."""
        self._error = await self._await_ready(command) or await self._await_silence(command.address)
        self._stopping.set()

    async def _await_ready(self, command: EngineCommand) -> TunefleetError | None:
        deadline = asyncio.get_running_loop().time() + command.start_seconds
        while asyncio.get_running_loop().time() < deadline:
            if await self._driver.is_ready(command.address):
                self._address = command.address
                self._state = EngineState.ENGINE_STATE_READY
                return None
            await asyncio.sleep(_READY_POLL_SECONDS)
        return TunefleetError(
            Reason.TIME_LIMIT,
            f"The engine was not ready after {command.start_seconds:.0f} s.",
            hint="It is started again by itself; read the last lines of its log below if it goes on.",
            metadata={"log": self._last_lines()},
        )

    async def _await_silence(self, address: str) -> TunefleetError:
        silent = 0
        while silent < _MOST_SILENT:
            await asyncio.sleep(_HEALTH_SECONDS)
            silent = 0 if await self._driver.is_ready(address) else silent + 1
        return TunefleetError(
            Reason.BACKEND_FAILED,
            f"The engine runs and has left {_MOST_SILENT} questions in a row without an answer of any sense.",
            hint="It is started again by itself; read the last lines of its log below if it goes on.",
            metadata={"log": self._last_lines()},
        )

    async def _wait_for_end(self, process: asyncio.subprocess.Process) -> bool:
        """Return when the process has ended; whether nobody had told it to."""
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(self._stopping.wait())
            ended = group.create_task(_exit_of(process))
            await asyncio.wait((stopping, ended), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await _end_process(process)
            stopping.cancel()
        return not self._stopping.is_set()

    async def _keep_lines(self, process: asyncio.subprocess.Process) -> None:
        stream = process.stdout
        assert stream is not None  # a pipe, see drive
        log = Path(self._order.work_dir) / f"{self._order.engine}.log"
        with log.open("ab", buffering=0) as file:  # small appends to the page cache, not worth a thread each
            while raw := await _read_line(stream):
                file.write(raw)
                self._lines.append(raw.decode("utf-8", "replace").rstrip())

    def _last_lines(self) -> str:
        return "\n".join(self._lines)

    async def _finish(self) -> None:
        if self._process is not None and self._process.returncode is None:
            await _end_process(self._process)
        self._state = EngineState.ENGINE_STATE_ENDED
        self._adapters.clear()
        self._ended.set()


async def _read_line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:  # a line beyond the reader's limit
        return b"[a line was too long and dropped]\n"


def _end_group(process: asyncio.subprocess.Process) -> None:
    """Kill what an engine started and left: vLLM's workers outlive a server that was killed, with its pipe.

    What is in no group of its own any more is found by the marker of its server.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _exit_of(process: asyncio.subprocess.Process) -> None:
    """Wait for the exit of a process. Its own `wait` also waits for whoever else holds its output."""
    while process.returncode is None:
        await asyncio.sleep(_EXIT_POLL_SECONDS)


async def _end_process(process: asyncio.subprocess.Process) -> None:
    try:
        process.terminate()
        try:
            async with asyncio.timeout(_TERM_GRACE_SECONDS):
                await _exit_of(process)
        except TimeoutError:
            process.kill()
            await _exit_of(process)
    except ProcessLookupError:
        await _exit_of(process)
