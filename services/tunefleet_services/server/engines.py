"""The engines of a server: claimed by deployments, shared by those of one base."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import grpc.aio

from tunefleet.backend.v1 import backend_service_pb2 as pb
from tunefleet.backend.v1.server_pb2 import Engine, EngineState
from tunefleet.fleet.v1.fleet_pb2 import DeploymentAssignment
from tunefleet_core.worker.marker import end_marked
from tunefleet_services.hosts import Host, HostRecord, adopt_host
from tunefleet_services.server.context import ServerContext
from tunefleet_services.server.engine_record import EngineFolder, EngineSpec, find_engines
from tunefleet_services.server.shared_engine import SharedEngine

__all__ = ["Engines"]

_LOG = logging.getLogger(__name__)


class Engines:
    """Starts an engine for the first deployment of a base, ends it after the last."""

    def __init__(self, context: ServerContext, group: asyncio.TaskGroup) -> None:
        self._context = context
        self._group = group
        self._live: list[SharedEngine] = []
        self._ending: list[SharedEngine] = []

    def names(self) -> list[str]:
        """Return the names of the engines that are held."""
        return [engine.spec.engine for engine in (*self._live, *self._ending)]

    def address_of(self, name: str) -> str:
        """Return where an engine answers now; empty: it is not here, or does not."""
        return next((engine.address for engine in self._live if engine.spec.engine == name), "")

    def find(self, assignment: DeploymentAssignment) -> SharedEngine | None:
        """Return a live engine that can serve a deployment."""
        for engine in self._live:
            if engine.spec.suits(assignment) and not engine.has_given_up:
                return engine
        return None

    def claim(self, assignment: DeploymentAssignment) -> SharedEngine:
        """Return the engine for a deployment; a new one starts if there is none."""
        engine = self.find(assignment)
        if engine is None:
            engine = SharedEngine(self._context, EngineSpec.of(assignment))
            # The devices must be free before another engine loads its weights on them.
            self._drive(engine, [ending.gone for ending in self._ending])
        engine.users[assignment.deployment_uid] = assignment.engine_model
        return engine

    async def release(self, engine: SharedEngine, deployment_uid: str) -> None:
        """A deployment no longer needs an engine: drop its adapter, or end the engine with proof."""
        model = engine.users.pop(deployment_uid, "")
        if not engine.users:
            self._end(engine)
            await engine.gone.wait()
        elif model != engine.spec.served_name and model not in engine.users.values():
            await engine.unload(model)

    def sweep(self) -> None:
        """End the engines that nobody claims."""
        for engine in [item for item in self._live if not item.users]:
            self._end(engine)

    async def adopt(self) -> dict[str, Engine]:
        """Take over the engines of an earlier life that still work; end what is left of others.

        Returns:
            The adopted engines as their hosts see them, by name.
        """
        adopted: dict[str, Engine] = {}
        for folder in await asyncio.to_thread(find_engines, self._context.engines):
            spec, record = await asyncio.to_thread(folder.read)
            host = await adopt_host(record)
            engine = await _look(host, spec) if host is not None else None
            if engine is None:
                await self._clear(folder, host, record)
            else:
                _LOG.info("engine %s is adopted", spec.engine)
                self._drive(SharedEngine(self._context, spec, adopted=host), ())
                adopted[spec.engine] = engine
        return adopted

    async def _clear(self, folder: EngineFolder, host: Host | None, record: HostRecord) -> None:
        await asyncio.to_thread(end_marked, record.mark)
        if host is not None:
            await host.close()
        await asyncio.to_thread(record.remove_sockets)
        await asyncio.to_thread(folder.remove)

    def _drive(self, engine: SharedEngine, predecessors: Sequence[asyncio.Event]) -> None:
        self._live.append(engine)
        self._group.create_task(self._drive_to_end(engine, predecessors))

    async def _drive_to_end(self, engine: SharedEngine, predecessors: Sequence[asyncio.Event]) -> None:
        await engine.drive(predecessors)
        self._ending.remove(engine)

    def _end(self, engine: SharedEngine) -> None:
        if engine in self._live:
            self._live.remove(engine)
            self._ending.append(engine)
            engine.stop()


async def _look(host: Host, spec: EngineSpec) -> Engine | None:
    """Return an engine that starts or answers; None if it has ended."""
    try:
        response = await host.stub.GetEngine(pb.GetEngineRequest(engine=spec.engine), timeout=5)
    except grpc.aio.AioRpcError:
        return None
    return None if response.engine.state == EngineState.ENGINE_STATE_ENDED else response.engine
