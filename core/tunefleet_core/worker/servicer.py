"""backend/v1 in front of a BackendHost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from tunefleet.backend.v1 import backend_service_pb2 as pb
from tunefleet.backend.v1 import backend_service_pb2_grpc as backend_grpc
from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.backend.v1.rank_pb2 import RankCommand
from tunefleet.backend.v1.run_pb2 import RunOrder
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.backend.manifest import require_capability
from tunefleet_core.backend.needs import require_capabilities
from tunefleet_core.errors import Reason, TunefleetError, error_from_status, from_exception
from tunefleet_core.rpc import RpcContext
from tunefleet_core.timestamps import timestamp_now
from tunefleet_core.worker.backend_host import BackendHost
from tunefleet_core.worker.hosted_engine import HostedEngine
from tunefleet_core.worker.hosted_run import HostedRun
from tunefleet_core.worker.rank_group import RankGroup

__all__ = ["BackendServicer"]

_SIGN_OF_LIFE_SECONDS = 5.0


class BackendServicer(backend_grpc.BackendServiceServicer):
    """Answers the contract; the docs of each method are in the proto."""

    def __init__(self, host: BackendHost) -> None:
        self._host = host
        self._start_lock = asyncio.Lock()
        self._audit_lock = asyncio.Lock()

    async def GetBackend(self, request: pb.GetBackendRequest, context: RpcContext) -> pb.GetBackendResponse:
        self._host.touch()
        return pb.GetBackendResponse(manifest=self._host.manifest, is_warm=self._host.is_warm)

    async def ValidateRun(
        self, request: pb.ValidateRunRequest, context: RpcContext
    ) -> pb.ValidateRunResponse:
        self._host.touch()
        self._require_capabilities(request.resolved_spec)
        return pb.ValidateRunResponse()

    async def StartRun(self, request: pb.StartRunRequest, context: RpcContext) -> pb.StartRunResponse:
        self._host.touch()
        order = request.order
        if not order.run or not order.work_dir:
            raise TunefleetError.field("order.run" if not order.run else "order.work_dir", "must be given")
        self._require_capabilities(order.resolved_spec)
        # The same start twice at once is one run.
        with self._host.answering():
            async with self._start_lock:
                run = self._host.runs.get(order.run)
                if run is None:
                    _make_folder(order.work_dir)
                    ranks = RankGroup(await self._host.take_ranks(self._processes(order)))
                    try:
                        run = HostedRun(order, ranks)
                    except OSError:
                        await ranks.end(grace_seconds=0.5)
                        raise
                    self._host.runs[order.run] = run
                    self._host.start(run)
        return pb.StartRunResponse(run=run.describe())

    async def GetRun(self, request: pb.GetRunRequest, context: RpcContext) -> pb.GetRunResponse:
        return pb.GetRunResponse(run=self._run(request.run).describe())

    async def StopRun(self, request: pb.StopRunRequest, context: RpcContext) -> pb.StopRunResponse:
        run = self._run(request.run)
        await run.stop(request.mode)
        return pb.StopRunResponse(run=run.describe())

    async def SaveRun(self, request: pb.SaveRunRequest, context: RpcContext) -> pb.SaveRunResponse:
        require_capability(self._host.manifest, Capability.CAPABILITY_CHECKPOINT_ON_REQUEST)
        run = self._run(request.run)
        await run.save(request.number)
        return pb.SaveRunResponse(run=run.describe())

    async def StreamRunEvents(
        self, request: pb.StreamRunEventsRequest, context: RpcContext
    ) -> AsyncIterator[pb.StreamRunEventsResponse]:
        run = self._run(request.run)
        async for batch in run.events(request.after_source_sequence):
            yield pb.StreamRunEventsResponse(events=batch, time=timestamp_now())

    async def AuditData(self, request: pb.AuditDataRequest, context: RpcContext) -> pb.AuditDataResponse:
        self._host.touch()
        require_capability(self._host.manifest, Capability.CAPABILITY_INSPECT)
        async with self._audit_lock:
            rank = await self._host.borrow_rank()
            await rank.send(RankCommand(audit=request.order))
            try:
                report = await rank.next_report()
            except asyncio.CancelledError:
                await asyncio.shield(self._host.drop_spare())  # its answer would go to the next question
                raise
            if report is None or report.WhichOneof("report") != "audit":
                await self._host.drop_spare()
                raise TunefleetError(
                    Reason.BACKEND_FAILED,
                    "The process that audits rows ended before it answered.",
                    hint="Look at the trainer's log, then retry.",
                )
        if report.audit.HasField("error"):
            raise error_from_status(report.audit.error)
        return pb.AuditDataResponse(result=report.audit.result)

    async def StartEngine(
        self, request: pb.StartEngineRequest, context: RpcContext
    ) -> pb.StartEngineResponse:
        self._host.touch()
        require_capability(self._host.manifest, Capability.CAPABILITY_SERVE)
        order = request.order
        if not order.engine or not order.work_dir:
            raise TunefleetError.field(
                "order.engine" if not order.engine else "order.work_dir", "must be given"
            )
        async with self._start_lock:
            engine = self._host.engines.get(order.engine)
            if engine is None:
                _make_folder(order.work_dir)
                engine = HostedEngine(order, self._host.driver())
                self._host.engines[order.engine] = engine
                self._host.start(engine)
        return pb.StartEngineResponse(engine=engine.describe())

    async def GetEngine(self, request: pb.GetEngineRequest, context: RpcContext) -> pb.GetEngineResponse:
        return pb.GetEngineResponse(engine=self._engine(request.engine).describe())

    async def StopEngine(self, request: pb.StopEngineRequest, context: RpcContext) -> pb.StopEngineResponse:
        engine = self._engine(request.engine)
        await engine.stop()
        return pb.StopEngineResponse(engine=engine.describe())

    async def LoadAdapter(
        self, request: pb.LoadAdapterRequest, context: RpcContext
    ) -> pb.LoadAdapterResponse:
        require_capability(self._host.manifest, Capability.CAPABILITY_LORA_HOTSWAP)
        engine = self._engine(request.order.engine)
        await engine.load_adapter(request.order)
        return pb.LoadAdapterResponse(engine=engine.describe())

    async def UnloadAdapter(
        self, request: pb.UnloadAdapterRequest, context: RpcContext
    ) -> pb.UnloadAdapterResponse:
        engine = self._engine(request.engine)
        await engine.unload_adapter(request.adapter)
        return pb.UnloadAdapterResponse(engine=engine.describe())

    def _run(self, name: str) -> HostedRun:
        self._host.touch()
        run = self._host.runs.get(name)
        if run is None:
            raise TunefleetError(Reason.JOB_NOT_FOUND, f"No run '{name}' here.", metadata={"run": name})
        return run

    def _engine(self, name: str) -> HostedEngine:
        self._host.touch()
        engine = self._host.engines.get(name)
        if engine is None:
            raise TunefleetError(
                Reason.DEPLOYMENT_NOT_FOUND, f"No engine '{name}' here.", metadata={"engine": name}
            )
        return engine

    @staticmethod
    def _processes(order: RunOrder) -> int:
        """Return how many rank processes a run has: one per device that its job asks for."""
        wanted = max(1, order.resolved_spec.spec.resources.devices)
        if wanted > 1 and len(order.device_ids) != wanted:
            raise TunefleetError.field(
                "order.device_ids",
                f"the job asks for {wanted} devices, and {len(order.device_ids)} are given",
            )
        return wanted

    def _require_capabilities(self, resolved: ResolvedSpec) -> None:
        require_capabilities(resolved.spec, self._host.manifest)


def _make_folder(work_dir: str) -> None:
    """Make the folder of an order. Raises FIELD_INVALID where none can be; a full disk is told as one."""
    try:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        if from_exception(error).reason is Reason.DISK_FULL:
            raise
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise TunefleetError.field(
            "order.work_dir",
            f"cannot be made at {work_dir[:200]!r}: {why}",
            hint="Name a folder that this process may write to.",
        ) from error
