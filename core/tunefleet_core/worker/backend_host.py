"""What a contract host holds: runs, engines, a spare rank process, and who owns it all."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet_core.backend.contract import EngineDriver
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.worker.forked_process import CannotForkError
from tunefleet_core.worker.hosted_engine import HostedEngine
from tunefleet_core.worker.hosted_run import HostedRun
from tunefleet_core.worker.rank_process import RankProcess

__all__ = ["BackendHost"]

_LOG = logging.getLogger(__name__)
_WATCH_SECONDS = 0.25


class BackendHost:
    """State of the host: runs, engines, one spare rank process, and who owns it all."""

    def __init__(
        self,
        manifest: BackendManifest,
        *,
        lease_seconds: float,
        owner_pid: int,
        group: asyncio.TaskGroup,
        rank_parent: str = "",
    ) -> None:
        self.manifest = manifest
        self.runs: dict[str, HostedRun] = {}
        self.engines: dict[str, HostedEngine] = {}
        self.stopping = asyncio.Event()
        self._group = group
        self._lease_seconds = lease_seconds
        self._last_call = time.monotonic()
        self._answering = 0
        self._spare: RankProcess | None = None
        self._spare_lock = asyncio.Lock()
        self._driver: EngineDriver | None = None
        self._owner_pid = owner_pid
        self._rank_parent = rank_parent  # the socket of what forks rank processes; empty: each is spawned

    @property
    def is_warm(self) -> bool:
        """Whether a rank process with its imports done waits for work."""
        return self._spare is not None and self._spare.is_warm

    def touch(self) -> None:
        """Note a sign of life of the owner."""
        self._last_call = time.monotonic()

    @contextmanager
    def answering(self) -> Generator[None]:
        """Take a call of the owner that needs its time as a sign of life until it is answered.

        Rank processes that are started at once on a busy machine can take longer than a lease.
        A call whose caller has died is cancelled, and so no longer answered.
        """
        self._answering += 1
        try:
            yield
        finally:
            self._answering -= 1
            self.touch()

    def start(self, work: HostedRun | HostedEngine) -> None:
        """Drive a run or an engine in the host's task group."""
        self._group.create_task(work.drive())

    def driver(self) -> EngineDriver:
        """Return the engine driver, imported on first use."""
        if self._driver is None:
            self._driver = cast("EngineDriver", _load(self.manifest.engine_entry)())
        return self._driver

    async def warm_up(self) -> None:
        """Start the spare rank process and wait until its imports are done."""
        async with self._spare_lock:
            if self._spare is None:
                self._spare = await self._spawn(warm=True)

    async def take_ranks(self, count: int) -> list[RankProcess]:
        """Return the rank processes for a run: the spare if there is one, and new ones for the rest."""
        async with self._spare_lock:
            spare, self._spare = self._spare, None
        ranks = [spare] if spare is not None and spare.process.returncode is None else []
        spawning = [asyncio.create_task(self._spawn(warm=False)) for _ in range(count - len(ranks))]
        try:
            ranks += await asyncio.gather(*spawning)
        except BaseException:
            spawned = await asyncio.gather(*spawning, return_exceptions=True)
            for rank in (*ranks, *(item for item in spawned if isinstance(item, RankProcess))):
                await rank.end(grace_seconds=1.0)
            raise
        return ranks

    async def borrow_rank(self) -> RankProcess:
        """Return the spare for an audit; it stays the spare."""
        async with self._spare_lock:
            if self._spare is None or self._spare.process.returncode is not None:
                self._spare = await self._spawn(warm=False)
            return self._spare

    async def drop_spare(self) -> None:
        """End the spare, after an audit went wrong or at the end of the host."""
        async with self._spare_lock:
            if self._spare is not None:
                await self._spare.end(grace_seconds=1.0)
                self._spare = None

    async def watch_owner(self) -> None:
        """Return when the host should end: told to, or without owner and work saved."""
        while not self.stopping.is_set():
            silent = time.monotonic() - self._last_call
            busy = [run for run in self.runs.values() if not run.is_ended]
            serving = [engine for engine in self.engines.values() if not engine.is_ended]
            if silent > self._lease_seconds and not self._answering:
                _LOG.warning("no sign of the service for %.1f s: saving and ending", silent)
                for run in busy:
                    await run.stop(StopMode.STOP_MODE_SAVE)
                return
            if not busy and not serving and os.getppid() != self._owner_pid and not self.runs:
                return  # an idle host is of no use without the service that started it
            try:
                async with asyncio.timeout(_WATCH_SECONDS):
                    await self.stopping.wait()
            except TimeoutError:
                continue

    async def end(self) -> None:
        """End everything the host owns."""
        for run in self.runs.values():
            await run.stop(StopMode.STOP_MODE_CANCEL)
        for engine in self.engines.values():
            await engine.stop()
        await self.drop_spare()

    async def _spawn(self, *, warm: bool) -> RankProcess:
        rank = await self._forked() or await RankProcess.spawn(self.manifest.rank_entry, warm=warm)
        report = await rank.next_report()
        if report is None or report.WhichOneof("report") != "warm":
            lines = [line.text async for line in rank.lines("stderr")]
            await rank.end(grace_seconds=1.0)
            raise TunefleetError(
                Reason.BACKEND_FAILED,
                f"A rank process of backend '{self.manifest.name}' ended while it started.",
                hint="Reinstall the backend: tunefleet plugins install " + self.manifest.name,
                metadata={"log": "\n".join(lines[-20:])},
            )
        return rank

    async def _forked(self) -> RankProcess | None:
        if not self._rank_parent:
            return None
        try:
            return await RankProcess.fork(self._rank_parent)
        except CannotForkError as error:
            _LOG.warning("a rank process is started by itself, for the parent of others did not: %s", error)
            self._rank_parent = ""
            return None


def _load(entry: str) -> type[object]:
    module, _, attribute = entry.partition(":")
    return cast("type[object]", getattr(importlib.import_module(module), attribute))
