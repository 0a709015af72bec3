"""One attempt on this trainer, from its assignment to proof that it is gone.

Start and adoption differ only in where the host comes from. Whatever happens,
the attempt ends with every marked process gone and a status that says how.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import grpc.aio

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1 import backend_service_pb2 as pb
from tunefleet.backend.v1.run_pb2 import Run, RunOrder, RunState, StopMode
from tunefleet.fleet.v1.fleet_pb2 import Assignment, AssignmentGoal, AttemptStatus
from tunefleet.job.v1.event_pb2 import AttemptOutcome, DeviceRelease, DeviceReleased, JobEvent
from tunefleet_core.errors import (
    Reason,
    TunefleetError,
    error_from_status,
    from_exception,
    status_from_error,
)
from tunefleet_core.rpc import error_from_rpc
from tunefleet_core.worker.hosted_run import saved_checkpoints
from tunefleet_core.worker.marker import EndReport, end_marked
from tunefleet_services.hosts import Host, HostRecord
from tunefleet_services.trainer.context import TrainerContext
from tunefleet_services.trainer.event_forwarder import EventForwarder, HostGoneError
from tunefleet_services.trainer.run_order import run_order
from tunefleet_services.trainer.run_record import RunFolder
from tunefleet_services.trainer.uploads import ArtifactUploader

__all__ = ["AttemptRunner"]

_LOG = logging.getLogger(__name__)
_SAVE_CALL_SECONDS = 30.0  # the call returns when the run has ended; asking again is harmless
_ASK_AGAIN_SECONDS = 0.2
_ASK_AGAIN = (
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
)
_STOPPED = (AttemptOutcome.ATTEMPT_OUTCOME_PAUSED, AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED)
_KEPT_CHECKPOINTS = 3  # the default of train.checkpoint.keep


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """How an attempt ended."""

    outcome: AttemptOutcome.ValueType
    error: TunefleetError | None = None
    run: Run | None = None
    manifest_digest: str = ""


class AttemptRunner:
    """Drives one attempt. `run` returns when the coordinator no longer wants to hear of it."""

    def __init__(self, context: TrainerContext, assignment: Assignment, record: HostRecord | None) -> None:
        self._context = context
        self._assignment = assignment
        self._record = record  # the host that works on it: an earlier life's, or once there is one
        self._folder = RunFolder.of(context.runs, assignment)
        self._name = f"{assignment.job_uid}-{assignment.attempt}"
        self._stop = asyncio.Event()
        self._stopped_as = AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED
        self._stop_error: TunefleetError | None = None
        self._pause = asyncio.Event()
        self._is_pause_wanted = False
        self._saves_asked = 0
        self._save_asked = asyncio.Event()
        # An earlier life was stopped in order, or this one is.
        self._is_interrupted = record is not None and self._folder.is_interrupted()
        self.settled = asyncio.Event()
        """Set when nothing more is to be done for the attempt in this life of the trainer."""
        self._is_told = record is not None  # whether a host may have begun with it
        self._dismissed = asyncio.Event()
        self._checkpoint_saved = asyncio.Event()
        self._forwarder = EventForwarder(context.connection, assignment, self._folder.path, self._look_at)
        self._committed_steps: set[int] = set()
        self.status = AttemptStatus(
            job_uid=assignment.job_uid,
            attempt=assignment.attempt,
            fencing_number=assignment.fencing_number,
            state=RunState.RUN_STATE_RUNNING,
        )

    @property
    def backend(self) -> str:
        """Name of the backend that it runs on."""
        return self._assignment.backend

    def steer(self, goal: AssignmentGoal.ValueType, *, checkpoint_requests: int = 0) -> None:
        """Follow the desired set: the goal, and how often a checkpoint was asked for."""
        if checkpoint_requests > self._saves_asked:
            self._saves_asked = checkpoint_requests
            self._save_asked.set()
        if goal == AssignmentGoal.ASSIGNMENT_GOAL_CANCEL:
            self._stopped_as = AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED
            self._stop.set()
        elif goal == AssignmentGoal.ASSIGNMENT_GOAL_PAUSE and not self._is_pause_wanted:
            self._is_pause_wanted = True
            self._save_and_end(AttemptOutcome.ATTEMPT_OUTCOME_PAUSED)

    def note_stop(self) -> None:
        """Keep that the service is being stopped, so that its next life takes no end for a failure."""
        self._folder.note_interrupted()

    def interrupt(self, *, can_save: bool) -> None:
        """The service is being stopped: save the exact state, end, and give the attempt back.

        What cannot save goes on for now: the next life of the service may adopt it.
        """
        self._is_interrupted = True
        if can_save or not self._is_told:
            self._save_and_end(AttemptOutcome.ATTEMPT_OUTCOME_INTERRUPTED)
        else:
            self.settled.set()

    def cut(self, seconds: float) -> None:
        """Its time to save is over: end it as it is. What it has saved stays for the next life."""
        if not self.settled.is_set():
            self._stopped_as = AttemptOutcome.ATTEMPT_OUTCOME_INTERRUPTED
            self._stop_error = TunefleetError(
                Reason.TIME_LIMIT,
                f"Its state was not saved within {seconds:.0f} s.",
                hint="It goes on from its newest checkpoint; give a stop more time with --stop-seconds.",
            )
            self._stop.set()

    def _save_and_end(self, outcome: AttemptOutcome.ValueType) -> None:
        self._pause.set()
        if not self._is_told:  # there is nothing to save yet
            self._stopped_as = outcome
            self._stop.set()

    def dismiss(self) -> None:
        """The desired set no longer names this attempt: stop if it works, then forget it."""
        self._stop.set()
        self._dismissed.set()

    async def run(self) -> None:
        """Work, prove the end, report it until dismissed, clean up."""
        try:
            end = await self._work_until_stopped()
            release = await self._release()
            if self._stop_error is not None and await asyncio.to_thread(self._has_uncommitted):
                self.settled.set()  # it was saved: the next life commits that, under the same fence
            else:
                self._report(end, release)
            await self._dismissed.wait()
            await asyncio.to_thread(self._folder.remove)
        finally:
            self.settled.set()

    async def _work_until_stopped(self) -> _End:
        async with asyncio.TaskGroup() as group:
            work = group.create_task(self._work_and_class())
            stop = group.create_task(self._stop.wait())
            await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            if not work.done():
                work.cancel()
        if work.cancelled():
            return _End(outcome=self._stopped_as, error=self._stop_error)
        return work.result()

    async def _work_and_class(self) -> _End:
        try:
            return await self._work()
        except TunefleetError as error:
            outcome = self._as_interrupted(AttemptOutcome.ATTEMPT_OUTCOME_FAILED, error)
            return _End(outcome=outcome, error=error)
        except grpc.aio.AioRpcError as error:
            typed = error_from_rpc(error, "The contract host")
            return _End(outcome=AttemptOutcome.ATTEMPT_OUTCOME_FAILED, error=typed)
        except Exception as error:  # a fault costs this attempt, not the trainer and its other runs
            typed = from_exception(error)
            if typed.reason is Reason.INTERNAL:
                _LOG.exception("a fault in attempt %s", self._name)
            return _End(outcome=AttemptOutcome.ATTEMPT_OUTCOME_FAILED, error=typed)

    async def _work(self) -> _End:
        self._context.report(self.status)
        where = {"job": self._assignment.job, "attempt": self._assignment.attempt}
        _LOG.info("the attempt %s", "begins" if self._record is None else "is adopted", extra=where)
        host = await self._start() if self._record is None else await self._adopt(self._record)
        try:
            async with asyncio.TaskGroup() as group:
                keeper = group.create_task(self._own(host))
                uploader = group.create_task(self._upload_checkpoints())
                saver = group.create_task(self._save_when_asked(host))
                asker = group.create_task(self._hand_on_saves(host))
                try:
                    await self._forwarder.follow(host, self._name)
                    run = await self._ended_run(host)
                finally:
                    keeper.cancel()
                    uploader.cancel()
                    saver.cancel()
                    asker.cancel()
            return await self._conclude(run)
        except* HostGoneError:
            await self._forwarder.drain_spool()
            await self._commit_saved_checkpoints()
            raise TunefleetError(
                Reason.WORKER_LOST,
                "The contract host of the run died.",
                hint="It is tried again from the newest committed checkpoint.",
            ) from None
        finally:
            await host.channel.close()

    async def _ended_run(self, host: Host) -> Run:
        try:
            return (await host.stub.GetRun(pb.GetRunRequest(run=self._name), timeout=10)).run
        except grpc.aio.AioRpcError as error:
            raise HostGoneError from error

    async def _start(self) -> Host:
        await asyncio.to_thread(self._folder.prepare, self._assignment)
        order = await self._order()
        host = await self._context.take(self._assignment.backend)
        self._record = host.record
        await asyncio.to_thread(self._folder.keep_host, host.record)
        await self._tell(host, order)
        return host

    async def _tell(self, host: Host, order: RunOrder) -> None:
        self._is_told = True
        request = pb.StartRunRequest(request_id=str(uuid.uuid4()), order=order)
        await host.stub.StartRun(request, timeout=60)

    async def _adopt(self, record: HostRecord) -> Host:
        host = await self._context.adopt(record)
        if host is None:
            await self._forwarder.drain_spool()
            await self._commit_saved_checkpoints()
            raise TunefleetError(
                Reason.WORKER_LOST,
                "The run ended while its trainer was away.",
                hint="It is tried again from the newest committed checkpoint.",
            )
        try:
            await host.stub.GetRun(pb.GetRunRequest(run=self._name), timeout=10)
        except grpc.aio.AioRpcError as error:
            if error_from_rpc(error, "The contract host").reason is not Reason.JOB_NOT_FOUND:
                raise
            # The earlier life ended between writing the host down and telling it what to do.
            await self._tell(host, await self._order())
        await asyncio.to_thread(self._folder.note_adopted)
        return host

    async def _order(self) -> RunOrder:
        return await run_order(self._context, self._assignment, self._folder.path, await self._uploads())

    async def _save_when_asked(self, host: Host) -> None:
        """Have the run save its exact state and end, once a pause is wanted; its events tell how it went."""
        await self._pause.wait()
        request = pb.StopRunRequest(
            request_id=str(uuid.uuid4()), run=self._name, mode=StopMode.STOP_MODE_SAVE
        )
        await _until_answered(partial(host.stub.StopRun, request, timeout=_SAVE_CALL_SECONDS))

    async def _hand_on_saves(self, host: Host) -> None:
        """Ask the run for a checkpoint whenever one is wanted; it knows the number if it was asked before."""
        while True:
            await self._save_asked.wait()
            self._save_asked.clear()
            request = pb.SaveRunRequest(run=self._name, number=self._saves_asked)
            try:
                await _until_answered(partial(host.stub.SaveRun, request, timeout=_SAVE_CALL_SECONDS))
            except TunefleetError as error:  # of this wish alone; the run goes on
                _LOG.warning("the attempt %s is not saved on request: %s", self._name, error.message)

    async def _own(self, host: Host) -> None:
        """Tell the host again and again that its service lives."""
        while True:
            await asyncio.sleep(self._context.lease_seconds / 4)
            try:
                await host.stub.GetRun(pb.GetRunRequest(run=self._name), timeout=5)
            except grpc.aio.AioRpcError:
                continue  # the event stream notices a dead host

    def _look_at(self, event: JobEvent) -> None:
        kind = event.WhichOneof("payload")
        if kind == "checkpoint_saved":
            self._checkpoint_saved.set()
        elif kind == "metrics":
            self._context.first_step_done(self._assignment.backend)

    async def _upload_checkpoints(self) -> None:
        """Commit checkpoints in the background while the run goes on."""
        self._checkpoint_saved.set()  # an adopted run may have some already
        while True:
            await self._checkpoint_saved.wait()
            self._checkpoint_saved.clear()
            await self._commit_saved_checkpoints()

    async def _commit_saved_checkpoints(self) -> None:
        uploads = await self._uploads()
        for saved in await asyncio.to_thread(saved_checkpoints, self._folder.path):
            if saved.step not in self._committed_steps:
                folder = self._folder.path / saved.path
                await uploads.commit(folder, ArtifactKind.ARTIFACT_KIND_CHECKPOINT, saved.step)
                self._committed_steps.add(saved.step)
                await asyncio.to_thread(self._folder.drop_checkpoints, self._committed_steps, self._kept)

    @property
    def _kept(self) -> int:
        policy = self._assignment.resolved_spec.spec.train.checkpoint
        return policy.keep if policy.HasField("keep") else _KEPT_CHECKPOINTS

    async def _conclude(self, run: Run) -> _End:
        if run.outcome != AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED:
            await self._commit_saved_checkpoints()
        digest = ""
        if run.outcome == AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED:
            output: Path = self._folder.path / "output"
            manifest = await (await self._uploads()).commit(output, run.output.kind, run.output.step)
            digest = manifest.digest
        error = error_from_status(run.error) if run.HasField("error") else None
        outcome = self._as_interrupted(run.outcome, error)
        return _End(outcome=outcome, error=error, run=run, manifest_digest=digest)

    def _as_interrupted(
        self, outcome: AttemptOutcome.ValueType, error: TunefleetError | None
    ) -> AttemptOutcome.ValueType:
        """Return INTERRUPTED for an end that the stop of the service has brought about."""
        if not self._is_interrupted:
            return outcome
        is_lost = error is not None and error.reason is Reason.WORKER_LOST  # ended together with its service
        is_saved = outcome in _STOPPED and not self._is_pause_wanted
        return AttemptOutcome.ATTEMPT_OUTCOME_INTERRUPTED if is_lost or is_saved else outcome

    def _has_uncommitted(self) -> bool:
        saved = saved_checkpoints(self._folder.path)
        return any(item.step not in self._committed_steps for item in saved)

    async def _uploads(self) -> ArtifactUploader:
        context = self._context
        return ArtifactUploader(context.connection, await context.blobs(), self._assignment, context.hardware)

    async def _release(self) -> EndReport:
        if self._record is None:
            return EndReport(ended=0, killed=0, seconds=0.0, all_gone=True)
        report = await asyncio.to_thread(end_marked, self._record.mark)
        await self._context.forget_host(self._record)
        return report

    def _report(self, end: _End, release: EndReport) -> None:
        proof = (
            DeviceRelease.DEVICE_RELEASE_BY_EXIT if release.all_gone else DeviceRelease.DEVICE_RELEASE_UNKNOWN
        )
        self.status.state = RunState.RUN_STATE_ENDED
        self.status.outcome = end.outcome
        if end.error is not None:
            self.status.error.CopyFrom(status_from_error(end.error))
        if end.run is not None:
            self.status.scores.extend(end.run.output.scores)
        self.status.output_manifest_digest = end.manifest_digest
        self.status.device_released.CopyFrom(
            DeviceReleased(
                device_release=proof,
                processes_ended=release.ended,
                processes_killed=release.killed,
                seconds=release.seconds,
            )
        )
        self._context.report(self.status)
        where = {"job": self._assignment.job, "attempt": self._assignment.attempt}
        _LOG.info("the attempt ended: %s", AttemptOutcome.Name(end.outcome), extra=where)


async def _until_answered(call: Callable[[], Awaitable[object]]) -> None:
    """Call a host until it answers. A large state takes long; a dead host is noticed by its events."""
    while True:
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            if error.code() not in _ASK_AGAIN:
                raise error_from_rpc(error, "The contract host") from error
            await asyncio.sleep(_ASK_AGAIN_SECONDS)
        else:
            return
