"""One deployment on this server: from its assignment to READY or FAILED, then gone.

An engine that dies is a new beginning for its deployments: they wait for its next life,
load again, check again. What the contract refuses is over at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tunefleet.backend.v1.server_pb2 import AdapterOrder
from tunefleet.deployment.v1.deployment_pb2 import ContractResult, DeploymentState
from tunefleet.fleet.v1.fleet_pb2 import DeploymentAssignment, DeploymentStatus
from tunefleet.job.v1.event_pb2 import Download
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.errors import Reason, TunefleetError, from_exception, status_from_error
from tunefleet_core.parity import CONTRACT_FILE, TrainServeContract, read_contract
from tunefleet_services.control import ArtifactFolders
from tunefleet_services.server.context import ServerContext
from tunefleet_services.server.contract_check import (
    Finding,
    check_engine,
    check_record,
    check_whole_record,
    unverified,
)
from tunefleet_services.server.deployment_record import DeploymentFolder
from tunefleet_services.server.engine_http import EngineHttp
from tunefleet_services.server.engines import Engines
from tunefleet_services.server.shared_engine import EngineLife

__all__ = ["DeploymentRunner"]

_LOG = logging.getLogger(__name__)
_MOST_LOSSES = 2
"""Times an engine may die while one adapter is loaded: more, and it is the adapter's doing."""
_REAP_SECONDS = 1.0
_PROGRESS_SECONDS = 1.0
_NOT_YET = (DeploymentState.DEPLOYMENT_STATE_PREPARING, DeploymentState.DEPLOYMENT_STATE_STARTING)
_T = TypeVar("_T")
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class DeploymentRunner:
    """Drives one deployment. `run` returns when nothing of it is left."""

    def __init__(
        self,
        context: ServerContext,
        engines: Engines,
        adapters: ArtifactFolders,
        assignment: DeploymentAssignment,
        kept: DeploymentStatus | None = None,
    ) -> None:
        self.assignment = assignment
        self.is_dismissed = False
        self._context = context
        self._engines = engines
        self._adapters = adapters
        self._folder = DeploymentFolder(path=context.deployments / assignment.deployment_uid)
        self._engine = engines.claim(assignment)  # at once, so that nobody ends it meanwhile
        self._digest = assignment.adapter_manifest_digest
        if self._digest:
            adapters.use(self._digest, assignment.deployment_uid)
        self._whole = assignment.base.manifest_digest
        if self._whole:
            context.models.use(self._whole, assignment.deployment_uid)
        self._dismissed = asyncio.Event()
        self._contract: ContractResult | None = None
        self._kept = kept
        starting = DeploymentState.DEPLOYMENT_STATE_STARTING
        self.status = kept or DeploymentStatus(
            deployment_uid=assignment.deployment_uid, state=starting, earlier_tries=assignment.earlier_tries
        )

    def dismiss(self) -> None:
        """The desired set no longer names this deployment: take it down."""
        self.is_dismissed = True
        self._dismissed.set()

    async def run(self) -> None:
        """Serve until dismissed; then prove that nothing is left and say so."""
        error = await self._serve_until_dismissed()
        await asyncio.to_thread(self._folder.remove)
        await self._engines.release(self._engine, self.assignment.deployment_uid)
        if error is not None:
            self._tell(self._describe(DeploymentState.DEPLOYMENT_STATE_FAILED, error=error))
            _LOG.warning("deployment %s failed: %s", self.assignment.deployment, error.message)
            await self._dismissed.wait()
        if self._digest:
            await self._adapters.drop(self._digest, self.assignment.deployment_uid)
        if self._whole:
            await self._context.models.drop(self._whole, self.assignment.deployment_uid)
        self._tell(self._describe(DeploymentState.DEPLOYMENT_STATE_DELETED))

    async def _serve_until_dismissed(self) -> TunefleetError | None:
        async with asyncio.TaskGroup() as group:
            work = group.create_task(self._serve_and_class())
            dismissed = group.create_task(self._dismissed.wait())
            await asyncio.wait((work, dismissed), return_when=asyncio.FIRST_COMPLETED)
            dismissed.cancel()
            if not work.done():
                async with self._engine.loading:  # half a load could not be taken back
                    work.cancel()
        return None if work.cancelled() else work.result()

    async def _serve_and_class(self) -> TunefleetError:
        """Serve; return why it cannot go on."""
        try:
            await self._serve()
        except TunefleetError as error:
            return error
        except (OSError, ValueError, BaseExceptionGroup) as error:
            return from_exception(error)

    async def _serve(self) -> NoReturn:
        losses = 0
        if self._kept is None:
            self._tell(self._describe(DeploymentState.DEPLOYMENT_STATE_STARTING))
        while True:
            life = await self._while_telling(self._engine.ready(), self._engine.download)
            try:
                await self._bring_up(life)
            except TunefleetError as error:
                if not await self._died_under(life, error):
                    raise
                losses += 1
                if losses >= _MOST_LOSSES:
                    raise _deadly(self.assignment.engine_model, error) from error
                await life.lost.wait()
                continue
            ready = self._describe(
                DeploymentState.DEPLOYMENT_STATE_READY,
                address=self._context.dialled(self._engine.spec.engine, life.address),
            )
            # Kept before it is told: what the fleet knows to be READY, a restarted server finds again.
            await asyncio.to_thread(self._folder.keep, self.assignment, ready)
            self._tell(ready)
            await life.lost.wait()
            losses = 0
            self._kept = None
            self._tell(self._describe(DeploymentState.DEPLOYMENT_STATE_STARTING))

    async def _while_telling(
        self, work: Coroutine[Any, Any, _T], progress: Callable[[], Awaitable[Download | None]]
    ) -> _T:
        """Do some work; tell meanwhile how far a fetch is that it waits for.

        Raises:
            TunefleetError: what the work raises.
        """
        async with asyncio.TaskGroup() as group:
            working = group.create_task(_caught(work))
            telling = group.create_task(self._tell_progress(progress))
            outcome = await working
            telling.cancel()
        if isinstance(outcome, TunefleetError):
            raise outcome
        if self.status.state == DeploymentState.DEPLOYMENT_STATE_PREPARING:
            self._tell(self._describe(DeploymentState.DEPLOYMENT_STATE_STARTING))
        return outcome

    async def _tell_progress(self, progress: Callable[[], Awaitable[Download | None]]) -> None:
        while True:
            download = await progress()
            if download is not None:
                status = self._describe(DeploymentState.DEPLOYMENT_STATE_PREPARING)
                status.download.CopyFrom(download)
                if status != self.status:
                    self._tell(status)
            elif self.status.state == DeploymentState.DEPLOYMENT_STATE_PREPARING:
                self._tell(self._describe(DeploymentState.DEPLOYMENT_STATE_STARTING))
            await asyncio.sleep(_PROGRESS_SECONDS)

    async def _bring_up(self, life: EngineLife) -> None:
        """Have the engine answer to the model's name as it was trained.

        Raises:
            TunefleetError: whatever says that it does not.
        """
        if self._kept is not None and (not self._digest or self.assignment.engine_model in life.adapters):
            self._contract = self._kept.contract  # it was loaded and checked by this server's earlier life
            return
        if not self._digest and not self._whole:
            self._contract = unverified("Tokens and numbers unverified: no adapter to verify.").result
            return
        if self._digest:
            folder = await self._while_telling(
                self._adapters.fetch(self._digest), partial(self._adapters.progress, self._digest)
            )
            async with self._engine.loading:
                finding = await self._load(life, folder)
        else:
            finding = await self._check_whole(life, await self._context.models.fetch(self._whole))
        self._contract = finding.result
        if finding.error is not None:
            raise finding.error

    async def _load(self, life: EngineLife, folder: Path) -> Finding:
        """Load the adapter and hold the engine to its record."""
        contract = await asyncio.to_thread(_read_record, folder)
        if contract is not None:
            refusal = check_record(contract, self.assignment.base, folder)
            if refusal is not None:
                return refusal
        order = AdapterOrder(
            engine=self._engine.spec.engine,
            adapter=self.assignment.engine_model,
            path=str(folder),
            chat_template=contract.template.text if contract else "",
            stop_token_ids=contract.template.stop_token_ids if contract else (),
        )
        await self._engine.load(life, order)
        if contract is None:
            return unverified(f"Tokens and numbers unverified: the adapter has no {CONTRACT_FILE}.")
        return await self._check(life, contract)

    async def _check_whole(self, life: EngineLife, folder: Path) -> Finding:
        """Hold the engine to the record of the whole model that it serves."""
        contract = await asyncio.to_thread(_read_record, folder)
        if contract is None:
            return unverified(f"Tokens and numbers unverified: the model has no {CONTRACT_FILE}.")
        refusal = check_whole_record(contract, self.assignment.base, folder)
        return refusal or await self._check(life, contract)

    async def _check(self, life: EngineLife, contract: TrainServeContract) -> Finding:
        base = self.assignment.base
        return await check_engine(
            EngineHttp(life.address),
            self.assignment.engine_model,
            contract,
            max_context_tokens=self.assignment.max_context_tokens or base.max_positions,
            served_dtype=self.assignment.engine_settings.dtype
            or (_stored_dtype(base) if self._context.has_accelerator else ""),
        )

    async def _died_under(self, life: EngineLife, error: TunefleetError) -> bool:
        """Whether an error only says that the engine died, which is made good by its next life."""
        if error.reason is Reason.UNAVAILABLE and not life.lost.is_set():
            await asyncio.sleep(_REAP_SECONDS)  # its host notices the end of the process a moment later
        return not await self._engine.is_up(life)

    def _describe(
        self,
        state: DeploymentState.ValueType,
        *,
        address: str = "",
        error: TunefleetError | None = None,
    ) -> DeploymentStatus:
        status = DeploymentStatus(
            deployment_uid=self.assignment.deployment_uid,
            state=state,
            engine_address=address,
            earlier_tries=self.assignment.earlier_tries,
        )
        if self._contract is not None and state not in _NOT_YET:
            status.contract.CopyFrom(self._contract)
        if error is not None:
            status.error.CopyFrom(status_from_error(error))
        return status

    def _tell(self, status: DeploymentStatus) -> None:
        self.status = status
        self._context.report(status)


async def _caught(work: Coroutine[Any, Any, _T]) -> _T | TunefleetError:
    """Return an error of ours as an outcome: out of a group of tasks it would come in a group of errors."""
    try:
        return await work
    except TunefleetError as error:
        return error


def _read_record(folder: Path) -> TrainServeContract | None:
    return read_contract(folder) if (folder / CONTRACT_FILE).is_file() else None


def _stored_dtype(base: BaseFacts) -> str:
    """Return the number type most of the base's weights are stored in: engines compute in no coarser one."""
    counts = Counter(tensor.dtype for tensor in base.tensors)
    return _DTYPES.get(counts.most_common(1)[0][0], "") if counts else ""


def _deadly(model: str, error: TunefleetError) -> TunefleetError:
    return TunefleetError(
        Reason.BACKEND_FAILED,
        f"The engine died {_MOST_LOSSES} times while '{model}' was loaded or checked: {error.message}",
        hint="Look at the engine's log on the server's host; deploy another model, or another engine.",
        metadata={"model": model, **error.metadata},
    )
