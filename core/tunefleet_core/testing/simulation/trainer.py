"""A simulated trainer: runs that outlive its process, spools, retries, and zombies.

Runs belong to the host: they go on while the service process is down, and are found again
by the next one. A service that is frozen or cut off goes on believing in its attempts; it
is the coordinator's business to fence it off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.run_pb2 import RunState
from tunefleet.fleet.v1.fleet_pb2 import AssignmentGoal, AttemptStatus, Service
from tunefleet.job.v1.event_pb2 import AttemptOutcome, DeviceRelease, JobEvent, Metrics
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import (
    AttemptReported,
    DesiredAssignment,
    DesiredView,
    EventsAcknowledged,
    EventsReported,
    HeartbeatReceived,
    ManifestCommitted,
    ManifestRow,
    ServiceAttached,
    ServiceDetached,
    ServiceStopping,
    SessionOpened,
)
from tunefleet_core.testing.samples import failure
from tunefleet_core.testing.simulation.coordinator import Answer
from tunefleet_core.testing.simulation.loop import Loop
from tunefleet_core.testing.simulation.network import Link

__all__ = ["Fate", "SimulatedTrainer", "fate_of"]

_HEARTBEAT = 1.0
_PUMP = 0.4
_MISSED_BEFORE_REATTACH = 3

Ending = Literal["well", "user error", "infrastructure", "poison", "lies"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What a job does whenever it runs: a property of the job, not of luck."""

    steps: int
    ending: Ending
    """`poison` takes its host down, `lies` says it succeeded and has no output."""


def fate_of(seed: int, job_uid: str) -> Fate:
    """Return what a job of a seed will do."""
    chance = Random(f"{seed} {job_uid}")
    weights = {"well": 82, "user error": 6, "infrastructure": 6, "poison": 3, "lies": 3}
    (ending,) = chance.choices(list(weights), list(weights.values()))
    return Fate(steps=chance.randint(2, 9), ending=ending)  # type: ignore[arg-type]


@dataclass(slots=True, kw_only=True, eq=False)
class _Run:
    """One attempt on a host, with its spool on the host's disk."""

    job_uid: str
    attempt: int
    fencing_number: int
    fate: Fate
    step: int
    saved_step: int
    source_sequence: int = 0
    spool: list[JobEvent] = field(default_factory=list[JobEvent])
    uncommitted: list[tuple[ArtifactKind.ValueType, int]] = field(
        default_factory=list[tuple[ArtifactKind.ValueType, int]]
    )
    output: str = ""
    outcome: AttemptOutcome.ValueType = AttemptOutcome.ATTEMPT_OUTCOME_UNSPECIFIED
    reason: Reason | None = None
    is_stopping: bool = False
    is_pausing: bool = False
    is_interrupted: bool = False
    is_gone: bool = False

    @property
    def key(self) -> tuple[str, int, int]:
        return (self.job_uid, self.attempt, self.fencing_number)

    @property
    def is_over(self) -> bool:
        return self.outcome != AttemptOutcome.ATTEMPT_OUTCOME_UNSPECIFIED

    def status(self) -> AttemptStatus:
        status = AttemptStatus(
            job_uid=self.job_uid,
            attempt=self.attempt,
            fencing_number=self.fencing_number,
            state=RunState.RUN_STATE_RUNNING,
        )
        if self.is_over and not self.spool and not self.uncommitted:
            status.state = RunState.RUN_STATE_ENDED
            status.outcome = self.outcome
            status.output_manifest_digest = self.output
            status.device_released.device_release = DeviceRelease.DEVICE_RELEASE_BY_EXIT
            if self.reason is not None:
                status.error.CopyFrom(failure(self.reason))
        return status


class SimulatedTrainer:
    """A service process and the runs of its host."""

    def __init__(self, loop: Loop, link: Link, described: Service, fate: Callable[[str], Fate]) -> None:
        self.link = link
        self.name = described.name
        self.is_up = False
        self._loop = loop
        self._described = described
        self._fate = fate
        self._runs: dict[tuple[str, int, int], _Run] = {}
        self._life = 0
        self._epoch = 0
        self._generation = 0
        self._missed = 0
        self._early: tuple[int, int, DesiredView] | None = None
        self._frozen_until = 0.0
        self._is_stopping = False

    # --- faults ------------------------------------------------------------------------

    def start(self) -> None:
        """Start the service process."""
        if self.is_up:
            return
        self.is_up = True
        self._is_stopping = False
        self._life += 1
        self._attach(self._life)
        self._pump(self._life)

    def crash(self, *, host: bool) -> None:
        """Kill the service process; with its host, also everything it ran. It comes back by itself."""
        epoch = self._epoch
        if self._loop.chance.random() < 0.5:  # else its end goes unnoticed, as a pulled plug does
            self.link.call(lambda at: ServiceDetached(at=at, service=self.name, epoch=epoch), lambda _: None)
        self.is_up = False
        self._epoch = 0
        if host:
            for run in self._runs.values():
                run.is_gone = True
            self._runs.clear()
        self._loop.after(self._loop.chance.uniform(0.1, 8.0), self.start)

    def stop(self, patience_seconds: float) -> None:
        """Stop the service process in order: its runs save and end first, within a bound. It comes back."""
        if not self.is_up or self._is_stopping:
            return
        self._is_stopping = True
        life, epoch = self._life, self._epoch
        self.link.call(lambda at: ServiceStopping(at=at, service=self.name, epoch=epoch), lambda _: None)
        for run in self._runs.values():
            run.is_interrupted = True
        self._loop.after(patience_seconds, lambda: self._leave(life))

    def _leave(self, life: int) -> None:
        if life != self._life or not self.is_up:
            return
        for run in self._runs.values():
            if not run.is_over:  # what is not saved by now is ended as it is
                run.outcome = AttemptOutcome.ATTEMPT_OUTCOME_INTERRUPTED
                run.reason = Reason.TIME_LIMIT
        self.crash(host=False)

    def freeze(self, seconds: float) -> None:
        """Stop the clock of everything here, as SIGSTOP or a closed laptop does."""
        self._frozen_until = self._loop.now + seconds

    def _when_awake(self, call: Callable[[], None]) -> bool:
        """Return True now, or False and call later if this service is frozen."""
        if self._loop.now >= self._frozen_until:
            return True
        self._loop.after(self._frozen_until - self._loop.now + 0.001, call)
        return False

    # --- session -----------------------------------------------------------------------

    def _attach(self, life: int) -> None:
        if life != self._life or not self.is_up or not self._when_awake(lambda: self._attach(life)):
            return
        self._epoch, self._missed = 0, 0
        held = tuple(run.status() for run in self._runs.values())
        described = Service()
        described.CopyFrom(self._described)
        described.is_stopping = self._is_stopping

        def answered(answer: Answer | None) -> None:
            if life != self._life or not self.is_up:
                return
            if not isinstance(answer, SessionOpened):
                self._loop.after(self._loop.chance.uniform(0.1, 1.0), lambda: self._attach(life))
                return
            self._epoch, self._generation = answer.epoch, 0
            if self._early is not None and self._early[0] == answer.epoch:
                self.desired(*self._early)
            self._beat(life, answer.epoch)

        self.link.call(lambda at: ServiceAttached(at=at, service=described, attempts=held), answered)

    def _beat(self, life: int, epoch: int) -> None:
        if life != self._life or epoch != self._epoch or not self.is_up:
            return
        if not self._when_awake(lambda: self._beat(life, epoch)):
            return

        def answered(answer: Answer | None) -> None:
            if life != self._life or epoch != self._epoch or not self.is_up:
                return
            self._missed = self._missed + 1 if answer is None else 0
            if isinstance(answer, TunefleetError) or self._missed >= _MISSED_BEFORE_REATTACH:
                self._attach(life)

        self.link.call(lambda at: HeartbeatReceived(at=at, service=self.name, epoch=epoch), answered)
        self._loop.after(_HEARTBEAT, lambda: self._beat(life, epoch))

    def desired(self, epoch: int, generation: int, view: DesiredView) -> None:
        """Take in what to hold; an older set, or one of another session, is ignored."""
        if not self._when_awake(lambda: self.desired(epoch, generation, view)):
            return
        if not self.is_up or epoch != self._epoch:
            if self._early is None or (epoch, generation) > self._early[:2]:
                self._early = (epoch, generation, view)
            return
        if generation <= self._generation:
            return
        self._generation = generation
        wanted = {
            (item.attempt.job_uid, item.attempt.attempt, item.attempt.fencing_number): item
            for item in view.assignments
        }
        for key in [key for key in self._runs if key not in wanted]:
            self._runs.pop(key).is_gone = True
        for key, item in wanted.items():
            self._hold(key, item)

    def _hold(self, key: tuple[str, int, int], item: DesiredAssignment) -> None:
        cancel = item.goal == AssignmentGoal.ASSIGNMENT_GOAL_CANCEL
        pause = item.goal == AssignmentGoal.ASSIGNMENT_GOAL_PAUSE
        run = self._runs.get(key)
        if run is None:
            resume = item.attempt.resume_from
            run = _Run(
                job_uid=key[0],
                attempt=key[1],
                fencing_number=key[2],
                fate=self._fate(key[0]),
                step=0 if resume is None else resume.step,
                saved_step=0 if resume is None else resume.step,
            )
            self._runs[key] = run
            run.is_interrupted = self._is_stopping
            if cancel:
                run.outcome = AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED
            elif self._is_stopping:
                run.outcome = AttemptOutcome.ATTEMPT_OUTCOME_INTERRUPTED
            elif pause:
                run.outcome = AttemptOutcome.ATTEMPT_OUTCOME_PAUSED
            else:
                self._loop.after(0.2, lambda: self._work(run))
        elif cancel and not run.is_over and not run.is_stopping:
            run.is_stopping = True
        elif pause:
            run.is_pausing = True

    # --- runs --------------------------------------------------------------------------

    def _work(self, run: _Run) -> None:
        if run.is_gone or run.is_over or not self._when_awake(lambda: self._work(run)):
            return
        if run.is_stopping:
            run.outcome = AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED
            return
        if run.is_pausing:
            self._save(run)
            run.outcome = AttemptOutcome.ATTEMPT_OUTCOME_PAUSED
            return
        if run.is_interrupted:
            self._save(run)
            run.outcome = AttemptOutcome.ATTEMPT_OUTCOME_INTERRUPTED
            return
        run.step += 1
        self._emit(run, JobEvent(metrics=Metrics(step=run.step, loss=1 / run.step)))
        if run.step >= run.fate.steps:
            self._finish(run)
            return
        if run.step % 3 == 0:
            self._save(run)
        self._loop.after(self._loop.chance.uniform(0.2, 1.2), lambda: self._work(run))

    def _save(self, run: _Run) -> None:
        if run.step > run.saved_step:
            run.saved_step = run.step
            run.uncommitted.append((ArtifactKind.ARTIFACT_KIND_CHECKPOINT, run.step))

    def _finish(self, run: _Run) -> None:
        ending = run.fate.ending
        if ending == "poison":
            self.crash(host=True)
        elif ending == "user error":
            run.reason = Reason.DATA_INVALID
            run.outcome = AttemptOutcome.ATTEMPT_OUTCOME_FAILED
        elif ending == "infrastructure" and self._loop.chance.random() < 0.6:
            run.reason = Reason.BACKEND_FAILED
            run.outcome = AttemptOutcome.ATTEMPT_OUTCOME_FAILED
        elif ending == "lies":
            run.output = "no such manifest"
            run.outcome = AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED
        else:
            run.uncommitted.append((ArtifactKind.ARTIFACT_KIND_ADAPTER, run.step))
            run.outcome = AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED

    def _emit(self, run: _Run, event: JobEvent) -> None:
        run.source_sequence += 1
        event.source_sequence = run.source_sequence
        run.spool.append(event)

    # --- reports -----------------------------------------------------------------------

    def _pump(self, life: int) -> None:
        """Send everything that is not acknowledged, again and again."""
        if life != self._life or not self.is_up or not self._when_awake(lambda: self._pump(life)):
            return
        for run in list(self._runs.values()):
            if run.spool:
                self._send_events(run)
            for kind, step in run.uncommitted:
                self._commit(run, kind, step)
            if self._epoch:
                self._report(run)
        self._loop.after(_PUMP * self._loop.chance.uniform(0.7, 1.3), lambda: self._pump(life))

    def _send_events(self, run: _Run) -> None:
        events = tuple(run.spool[:20])

        def answered(answer: Answer | None) -> None:
            if isinstance(answer, EventsAcknowledged):
                acknowledged = answer.acknowledged_source_sequence
                run.spool = [event for event in run.spool if event.source_sequence > acknowledged]
            self._stop_if_fenced(run, answer)

        self.link.call(
            lambda at: EventsReported(
                at=at,
                job_uid=run.job_uid,
                attempt=run.attempt,
                fencing_number=run.fencing_number,
                events=events,
            ),
            answered,
        )

    def _commit(self, run: _Run, kind: ArtifactKind.ValueType, step: int) -> None:
        def answered(answer: Answer | None) -> None:
            if isinstance(answer, ManifestRow) and (kind, step) in run.uncommitted:
                run.uncommitted.remove((kind, step))
                if kind == ArtifactKind.ARTIFACT_KIND_ADAPTER:
                    run.output = answer.digest
            self._stop_if_fenced(run, answer)

        self.link.call(
            lambda at: ManifestCommitted(
                at=at,
                job_uid=run.job_uid,
                attempt=run.attempt,
                fencing_number=run.fencing_number,
                digest=f"{run.job_uid}-{run.attempt}-{kind}-{step}",
                kind=kind,
                step=step,
                manifest=b"",
            ),
            answered,
        )

    def _report(self, run: _Run) -> None:
        epoch, status = self._epoch, run.status()
        self.link.call(
            lambda at: AttemptReported(at=at, service=self.name, epoch=epoch, status=status),
            lambda answer: self._stop_if_fenced(run, answer),
        )

    def _stop_if_fenced(self, run: _Run, answer: Answer | None) -> None:
        fenced = isinstance(answer, TunefleetError) and answer.reason is Reason.FENCED
        if fenced and not run.is_over:
            # A zombie learns late; what it would still send is refused as well.
            run.is_gone = True
            self._runs.pop(run.key, None)
