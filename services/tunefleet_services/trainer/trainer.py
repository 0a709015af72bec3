"""The trainer: reconciles what it holds with what it is told to hold."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from tunefleet.backend.v1.backend_service_pb2 import AuditDataRequest
from tunefleet.backend.v1.inspect_pb2 import AuditOrder, AuditResult
from tunefleet.fleet.v1.fleet_pb2 import (
    Assignment,
    AttemptStatus,
    AuditQuestion,
    DesiredSet,
    Service,
    ServiceKind,
)
from tunefleet.fleet.v1.fleet_service_pb2 import Hello, Welcome
from tunefleet_core import CONTRACT_VERSION, __version__
from tunefleet_services.control import Connection, InspectionDesk, ServiceSession
from tunefleet_services.hosts import BackendDirectory, HostPool, HostRecord, remove_stale_sockets
from tunefleet_services.joining import Membership, keep_renewed
from tunefleet_services.machine import describe_machine, hardware_summary
from tunefleet_services.trainer.attempt import AttemptRunner
from tunefleet_services.trainer.context import TrainerContext
from tunefleet_services.trainer.run_record import find_runs

__all__ = ["Trainer", "TrainerOptions"]

_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 2.0
_AUDIT_SECONDS = 95.0  # a little less than the coordinator waits for an answer
_END_SECONDS = 5.0  # to end what did not save in time, and to tell so
_Key = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerOptions:
    """How a trainer is started."""

    name: str
    address: str
    token: str
    state_folder: Path
    work_folder: Path
    lease_seconds: float = 10.0
    threads: int = 0
    warm: bool = True
    stop_seconds: float = 60.0
    """How long a stop waits for runs to save their state; 0: runs go on, for the next life to adopt."""
    membership: Membership | None = None
    """Of a fleet on another machine; then there is no token."""


class Trainer:
    """A service of kind TRAINER."""

    def __init__(self, options: TrainerOptions, group: asyncio.TaskGroup) -> None:
        self._options = options
        self._group = group
        self._host = describe_machine(options.state_folder)
        member = options.membership
        self._connection = Connection(
            options.address, options.token, tls=None if member is None else member.channel_tls
        )
        self._session = ServiceSession(self._connection, self)
        self._directory = BackendDirectory(options.state_folder)
        self._pool = HostPool(
            self._directory,
            options.work_folder / "hosts",
            lease_seconds=options.lease_seconds,
            warm=options.warm,
        )
        self._context = TrainerContext(
            connection=self._connection,
            runs=options.work_folder / "runs",
            models_folder=options.work_folder / "models",
            tracking=(options.work_folder / "tracking").absolute(),
            pool=self._pool,
            lease_seconds=options.lease_seconds,
            threads=options.threads,
            hardware=hardware_summary(self._host),
            report=self._session.report_attempt,
            refill=self._refill,
        )
        self._desk = InspectionDesk(
            self._connection,
            self._audit,
            group,
            models=self._context.models,
            disk=options.work_folder,
        )
        self._runners: dict[_Key, AttemptRunner] = {}
        self._refilling: set[str] = set()
        self._is_stopping = False

    async def run(self) -> None:
        """Work until cancelled. Runs go on without this process: the next one adopts them."""
        await asyncio.to_thread(remove_stale_sockets)
        await self._directory.refresh()
        for folder in await asyncio.to_thread(find_runs, self._context.runs):
            self._begin(folder.assignment(), folder.host())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._session.run())
                if self._options.membership is not None:
                    renewing = keep_renewed(
                        self._options.membership, self._connection, self._session.attach_anew
                    )
                    group.create_task(renewing)
                group.create_task(self._pool.keep_alive())
                group.create_task(self._watch_backends())
        finally:
            await self._pool.close()
            await self._connection.close()

    async def stop(self) -> None:
        """Have every attempt save its exact state, end and be given back; returns when that is so.

        It takes `stop_seconds` at most, and a little more to end what has not saved by then.
        `run` goes on meanwhile; cancel it afterwards.
        """
        seconds = self._options.stop_seconds
        runners = list(self._runners.values())
        for runner in runners:
            await asyncio.to_thread(runner.note_stop)
        if not seconds:
            return
        self._is_stopping = True
        self._session.report_stopping()
        if runners:
            _LOG.warning(
                "stopping: what runs saves its state first (attempts: %d), for up to %.0f s; "
                "the next signal stops at once",
                len(runners),
                seconds,
            )
        for runner in runners:
            self._interrupt(runner)
        if not await self._is_settled_within(seconds):
            late = [runner for runner in self._runners.values() if not runner.settled.is_set()]
            _LOG.warning("not saved within %.0f s (attempts: %d)", seconds, len(late))
            for runner in late:
                runner.cut(seconds)
            await self._is_settled_within(_END_SECONDS)

    def _interrupt(self, runner: AttemptRunner) -> None:
        runner.interrupt(can_save=self._pool.can_save(runner.backend))

    async def _is_settled_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while working := [item for item in self._runners.values() if not item.settled.is_set()]:
                    await working[0].settled.wait()
        except TimeoutError:
            return False
        return True

    def hello(self) -> Hello:
        """Return who attaches and which attempts it holds."""
        service = Service(
            name=f"services/{self._options.name}",
            kind=ServiceKind.SERVICE_KIND_TRAINER,
            host=self._host,
            backends=self._directory.backends(),
            version=__version__,
            is_stopping=self._is_stopping,
        )
        statuses: list[AttemptStatus] = [runner.status for runner in self._runners.values()]
        return Hello(service=service, contract_versions=[CONTRACT_VERSION], attempts=statuses)

    async def welcomed(self, welcome: Welcome) -> None:
        """Learn where artifacts go; have a host ready for each backend."""
        self._context.welcomed(welcome.artifact_store)
        for backend in self._directory.backends():
            self._refill(backend.manifest.name)

    async def desired(self, desired: DesiredSet) -> None:
        """Begin what is new, steer what is known, dismiss what is not named any more."""
        wanted = {(item.job_uid, item.attempt): item for item in desired.assignments}
        for key, runner in list(self._runners.items()):
            if key not in wanted:
                runner.dismiss()
        for key, assignment in wanted.items():
            runner = self._runners.get(key)
            if runner is None:
                runner = self._begin(assignment, None)
            runner.steer(assignment.goal, checkpoint_requests=assignment.checkpoint_requests)
        self._desk.desired(list(desired.inspections))

    def _begin(self, assignment: Assignment, record: HostRecord | None) -> AttemptRunner:
        runner = AttemptRunner(self._context, assignment, record)
        key = (assignment.job_uid, assignment.attempt)
        self._runners[key] = runner
        self._group.create_task(self._drive(key, runner))
        if self._is_stopping:  # it was on its way here
            self._interrupt(runner)
        return runner

    async def _drive(self, key: _Key, runner: AttemptRunner) -> None:
        try:
            await runner.run()
        finally:
            self._runners.pop(key, None)

    async def _audit(self, question: AuditQuestion) -> AuditResult:
        order = AuditOrder()
        order.CopyFrom(question.order)
        for file in order.files:
            file.path = await self._context.data.bring(file.path, file.sha256)
        async with self._pool.borrow(question.backend) as host:
            request = AuditDataRequest(order=order)
            result = (await host.stub.AuditData(request, timeout=_AUDIT_SECONDS)).result
        for file, asked in zip(result.files, question.order.files, strict=False):
            file.file.CopyFrom(asked)  # it was asked of files by their paths over there
        return result

    def _refill(self, backend: str) -> None:
        if backend not in self._refilling and not self._is_stopping:
            self._refilling.add(backend)
            self._group.create_task(self._refill_once(backend))

    async def _refill_once(self, backend: str) -> None:
        try:
            await self._pool.refill(backend)
        finally:
            self._refilling.discard(backend)

    async def _watch_backends(self) -> None:
        """Notice a plugin that was installed while the trainer runs."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if await self._directory.refresh():
                self._session.report_backends(self._directory.backends())
                for backend in self._directory.backends():
                    self._refill(backend.manifest.name)
