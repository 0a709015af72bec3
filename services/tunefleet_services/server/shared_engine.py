"""One engine and its contract host: started, watched, started again, ended with proof.

An engine has lives. A life begins READY and ends when its process or its host dies;
deployments wait for a life and go back to waiting when it is lost. A few lives that end
early in a row, and the engine gives up with the last lines of its log.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import grpc
import grpc.aio

from tunefleet.backend.v1 import backend_service_pb2 as pb
from tunefleet.backend.v1.server_pb2 import AdapterOrder, Engine, EngineState
from tunefleet.job.v1.event_pb2 import Download
from tunefleet_core.errors import Reason, TunefleetError, error_from_status, from_exception
from tunefleet_core.rpc import error_from_rpc
from tunefleet_core.worker.marker import end_marked
from tunefleet_services.hosts import Host, start_host
from tunefleet_services.server.context import ServerContext
from tunefleet_services.server.engine_record import EngineFolder, EngineSpec

__all__ = ["EngineLife", "SharedEngine"]

_LOG = logging.getLogger(__name__)
_READY_POLL_SECONDS = 0.1
_LONGEST_POLL_SECONDS = 1.0
_CALL_SECONDS = 5.0
_LOAD_SECONDS = 330.0  # a little more than an engine itself takes before it gives up
_MOST_EARLY_ENDS = 4
_MOST_FAILED_STARTS = 2  # one more, for a port or memory that was not free yet: a broken base stays broken
_STABLE_SECONDS = 60.0  # an engine that lived so long did not die of its start
_BACK_OFF_SECONDS = (0.2, 1.0, 4.0)
_HOPELESS = frozenset({Reason.BACKEND_NOT_INSTALLED, Reason.CAPABILITY_UNSUPPORTED, Reason.BASE_INVALID})


@dataclass(slots=True, kw_only=True, eq=False)
class EngineLife:
    """An engine from READY to its end."""

    host: Host
    address: str
    adapters: frozenset[str]
    lost: asyncio.Event = field(default_factory=asyncio.Event)


class SharedEngine:
    """An engine that deployments of one base share. `drive` runs until `stop`."""

    def __init__(self, context: ServerContext, spec: EngineSpec, adopted: Host | None = None) -> None:
        self.spec = spec
        self.users: dict[str, str] = {}
        """Deployment uid to the name of its model inside the engine."""
        self.loading = asyncio.Lock()
        """Held while a deployment loads and checks its adapter: one at a time."""
        self.gone = asyncio.Event()
        """Set when no process of the engine is left."""
        self._context = context
        self._folder = EngineFolder(path=context.engines / spec.engine)
        self._host = adopted
        self._is_adopted = adopted is not None
        self._life: EngineLife | None = None
        self._ready_at: float | None = None
        self._failure: TunefleetError | None = None
        self._download: Download | None = None
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()

    @property
    def has_given_up(self) -> bool:
        """Whether it will not be started again."""
        return self._failure is not None

    @property
    def address(self) -> str:
        """Where it answers now; empty: nowhere."""
        return self._life.address if self._life is not None else ""

    async def download(self) -> Download | None:
        """Return how far it is with what it fetches before it starts; None: it fetches nothing."""
        if self._life is not None:
            return None
        return self._download or await self._context.models.progress(self.spec.manifest_digest)

    def stop(self) -> None:
        """End the engine; `gone` is set when it has."""
        self._stopping.set()

    async def ready(self) -> EngineLife:
        """Wait for a life.

        Raises:
            TunefleetError: the engine has given up, with the last lines of its log.
        """
        while True:
            if self._failure is not None:
                raise self._failure
            if self._life is not None:
                return self._life
            await self._changed.wait()

    async def load(self, life: EngineLife, order: AdapterOrder) -> None:
        """Load an adapter. Raises TunefleetError; then nothing has changed."""
        request = pb.LoadAdapterRequest(request_id=str(uuid.uuid4()), order=order)
        try:
            await life.host.stub.LoadAdapter(request, timeout=_LOAD_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "The contract host of the engine") from error

    async def unload(self, adapter: str) -> None:
        """Drop an adapter; an engine that has no life has dropped it already."""
        life = self._life
        if life is None:
            return
        request = pb.UnloadAdapterRequest(
            request_id=str(uuid.uuid4()), engine=self.spec.engine, adapter=adapter
        )
        try:
            await life.host.stub.UnloadAdapter(request, timeout=_LOAD_SECONDS)
        except grpc.aio.AioRpcError as error:
            _LOG.warning("adapter %s stays in %s: %s", adapter, self.spec.engine, error.details())

    async def drive(self, predecessors: Sequence[asyncio.Event] = ()) -> None:
        """Keep the engine up until `stop`, then end it and prove its processes gone.

        Cancelled, it leaves the processes: the server's next life adopts them.

        Args:
            predecessors: Set when the engines that were here before are gone.
        """
        try:
            async with asyncio.TaskGroup() as group:
                work = group.create_task(self._keep_up(predecessors))
                await self._stopping.wait()
                work.cancel()
            self._withdraw()
            await self._end_processes()
            await asyncio.to_thread(self._folder.remove)
            self.gone.set()
        finally:
            if self._host is not None:
                await self._host.channel.close()

    async def _keep_up(self, predecessors: Sequence[asyncio.Event]) -> None:
        early_ends = 0
        for gone in predecessors:
            await gone.wait()
        while True:
            error = await self._live()
            self._withdraw()
            _LOG.warning("engine %s ended: %s", self.spec.engine, error.message)
            await self._end_processes()
            early_ends = 1 if self._was_stable() else early_ends + 1
            most = _MOST_FAILED_STARTS if self._ready_at is None else _MOST_EARLY_ENDS
            if error.reason in _HOPELESS or early_ends >= most:
                self._failure = error if self._ready_at is None else _lost(error)
                self._notify()
                return
            await asyncio.sleep(_BACK_OFF_SECONDS[min(early_ends, len(_BACK_OFF_SECONDS)) - 1])

    async def _live(self) -> TunefleetError:
        """Live once; return why it ended."""
        self._ready_at = None
        self._download = None
        try:
            host = await self._start()
            engine = await self._await_ready(host)
            life = EngineLife(host=host, address=engine.address, adapters=frozenset(engine.adapters))
            self._life = life
            self._ready_at = asyncio.get_running_loop().time()
            self._notify()
            _LOG.info("engine %s is ready at %s", self.spec.engine, engine.address)
            await self._watch(host)
        except TunefleetError as error:
            return error
        except grpc.aio.AioRpcError as error:
            return error_from_rpc(error, "The contract host of the engine")
        except OSError as error:
            return from_exception(error)

    async def _start(self) -> Host:
        if self._is_adopted and self._host is not None:
            self._is_adopted = False
            return self._host
        if self.spec.manifest_digest:
            folder = await self._context.models.fetch(self.spec.manifest_digest)
            self.spec = replace(self.spec, base_path=str(folder))
        if not await asyncio.to_thread(Path(self.spec.base_path).is_dir):
            raise TunefleetError(
                Reason.BASE_INVALID,
                f"The base folder '{self.spec.base_path}' is not on this server's machine.",
                hint="Put the base there, or serve it where it is.",
                metadata={"path": self.spec.base_path},
            )
        _, environment = self._context.directory.find(self.spec.backend)
        host = await start_host(
            self.spec.backend,
            environment,
            log_folder=self._folder.path / "host",
            lease_seconds=self._context.lease_seconds,
            warm=False,
        )
        self._host = host
        await asyncio.to_thread(self._folder.keep, self.spec, host.record)
        sockets = await asyncio.to_thread(host.record.make_socket_folder)
        order = self.spec.order(self._folder.path, socket_dir=sockets)
        request = pb.StartEngineRequest(request_id=str(uuid.uuid4()), order=order)
        await host.stub.StartEngine(request, timeout=60)
        return host

    async def _await_ready(self, host: Host) -> Engine:
        while True:
            engine = await self._look(host)
            if engine is not None:
                self._download = engine.download if engine.HasField("download") else None
            if engine is not None and engine.state == EngineState.ENGINE_STATE_READY:
                return engine
            await asyncio.sleep(_READY_POLL_SECONDS)

    async def _watch(self, host: Host) -> NoReturn:
        """Ask again and again, which is also how the host knows that its service lives."""
        pause = min(self._context.lease_seconds / 4, _LONGEST_POLL_SECONDS)
        while True:
            await asyncio.sleep(pause)
            await self._look(host)

    async def _look(self, host: Host) -> Engine | None:
        """Return the engine, None if its host was busy. Raises TunefleetError if it is gone."""
        try:
            request = pb.GetEngineRequest(engine=self.spec.engine)
            engine = (await host.stub.GetEngine(request, timeout=_CALL_SECONDS)).engine
        except grpc.aio.AioRpcError as error:
            if host.record.is_alive and error.code() is not grpc.StatusCode.NOT_FOUND:
                return None
            raise TunefleetError(
                Reason.WORKER_LOST,
                "The contract host of the engine died.",
                hint="The engine is started again by itself.",
            ) from error
        if engine.state == EngineState.ENGINE_STATE_ENDED:
            if engine.HasField("error"):
                raise error_from_status(engine.error)
            raise TunefleetError(Reason.BACKEND_FAILED, "The engine ended without being told to.")
        return engine

    async def is_up(self, life: EngineLife) -> bool:
        """Return whether a life goes on, as its host sees it now."""
        if life.lost.is_set():
            return False
        try:
            await self._look(life.host)
        except TunefleetError:
            return False
        return True

    def _was_stable(self) -> bool:
        return (
            self._ready_at is not None
            and asyncio.get_running_loop().time() - self._ready_at > _STABLE_SECONDS
        )

    def _withdraw(self) -> None:
        if self._life is not None:
            self._life.lost.set()
            self._life = None
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _end_processes(self) -> None:
        host = self._host
        if host is None:
            return
        while True:
            report = await asyncio.to_thread(end_marked, host.record.mark)
            if report.all_gone:
                break
            _LOG.error("processes of engine %s do not end", self.spec.engine)
        _LOG.info(
            "engine %s: %d processes ended, %d killed, %.2f s",
            self.spec.engine,
            report.ended,
            report.killed,
            report.seconds,
        )
        await host.close()
        self._host = None
        await asyncio.to_thread(host.record.remove_sockets)
        await asyncio.to_thread(self._folder.forget_host)


def _lost(error: TunefleetError) -> TunefleetError:
    """Return why an engine that had answered is given up: not its options, which it had started with."""
    if error.reason is not Reason.BACKEND_FAILED:
        return error
    return TunefleetError(Reason.WORKER_LOST, error.message, hint=error.hint, metadata=error.metadata)
