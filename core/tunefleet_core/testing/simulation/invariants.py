"""What must hold after every step, written down apart from the rules that make it so.

The checker keeps its own books from the durable changes alone. It never asks the core
whether something is live, free or allowed: a wrong rule must not excuse itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.job.v1.job_service_pb2 import JobEvents
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.lifecycle import (
    AttemptRow,
    AttemptState,
    CancelRequested,
    Change,
    EventsAppended,
    EventsReported,
    Input,
    JobRow,
    Key,
    ManifestCommitted,
    ManifestRow,
    ReplicaRow,
    RetryRequested,
    RowChange,
    RowRemoved,
    World,
    is_durable,
)
from tunefleet_core.testing.simulation.claim import InvariantError, require
from tunefleet_core.testing.simulation.durable import DurableRows, durable_part
from tunefleet_core.testing.simulation.pause_claims import PauseClaims
from tunefleet_core.testing.simulation.replica_claims import ReplicaClaims
from tunefleet_core.testing.simulation.rollout_claims import RolloutClaims

__all__ = ["Checker", "InvariantError"]

_TERMINAL = (JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_FAILED, JobState.JOB_STATE_CANCELLED)
_BOOKING = (
    DeploymentState.DEPLOYMENT_STATE_PREPARING,
    DeploymentState.DEPLOYMENT_STATE_STARTING,
    DeploymentState.DEPLOYMENT_STATE_READY,
    DeploymentState.DEPLOYMENT_STATE_STOPPING,
    DeploymentState.DEPLOYMENT_STATE_DRAINING,
)
"""Of a replica: its engine is there, or is to come or to go."""


class Checker:
    """Books of what was committed, and the claims made on them."""

    def __init__(self, full_check_every: int) -> None:
        self.steps = 0
        self._full_check_every = full_check_every
        self._live: dict[str, AttemptRow] = {}
        self._highest_fence: dict[str, int] = {}
        self._devices: dict[tuple[str, str], Key] = {}
        self._sequence: dict[str, int] = {}
        self._source: dict[tuple[str, int], int] = {}
        self._cancelled: dict[str, None] = {}
        self._pauses = PauseClaims()
        self.rollouts = RolloutClaims()
        self.replicas = ReplicaClaims()
        self.deleted = 0

    @property
    def paused(self) -> int:
        """How many attempts were paused."""
        return self._pauses.paused

    @property
    def interrupted(self) -> int:
        """How many attempts ended because their service was stopped in order."""
        return self._pauses.interrupted

    def before_commit(self, durable: DurableRows, event: Input, changes: Sequence[Change]) -> None:
        """Check a decision against what is durable, before it is."""
        if isinstance(event, ManifestCommitted | EventsReported):
            self._check_fence(event, changes)
        if isinstance(event, CancelRequested):
            for row in durable.fetch([("name", event.name, 0)]):
                self._cancelled[row.uid if isinstance(row, JobRow) else ""] = None
        for change in changes:
            if isinstance(change, RowChange) and isinstance(change.old, JobRow):
                old = change.old
                may = old.state not in _TERMINAL or isinstance(event, RetryRequested)
                require(may, f"Job {old.uid} changed after it had ended.")
                if old.state in _TERMINAL:
                    self._cancelled.pop(old.uid, None)
            elif isinstance(change, RowRemoved) and isinstance(change.old, JobRow):
                require(change.old.state in _TERMINAL, f"Job {change.old.uid} was deleted before its end.")
                self.deleted += 1
        self._pauses.check(event, changes)

    def after_commit(self, durable: DurableRows, world: World, changes: Sequence[Change]) -> None:
        """Check what a commit has made of the whole."""
        self.steps += 1
        # Ended attempts first: one decision may free a device and book it again.
        rows = [change.new for change in changes if isinstance(change, RowChange) and is_durable(change)]
        attempts = [row for row in rows if isinstance(row, AttemptRow)]
        for attempt in sorted(attempts, key=lambda row: row.state != AttemptState.ENDED):
            self._book(attempt)
        for change in changes:
            if isinstance(change, EventsAppended):
                self._check_events(change)
        for row in rows:
            if isinstance(row, JobRow):
                self._check_job(row, durable)
        self.rollouts.check(durable, changes)
        self.replicas.check(durable, changes)
        if self.steps % self._full_check_every == 0:
            self.check_all(durable, world)

    def check_all(self, durable: DurableRows, world: World) -> None:
        """Compare the memory with the store, and the ledger with the live attempts."""
        expected: dict[tuple[str, str], set[Key]] = {}
        for key, row in durable.rows.items():
            if isinstance(row, AttemptRow) and row.state != AttemptState.ENDED:
                for device in row.device_ids:
                    expected.setdefault((row.host_id, device), set()).add(key)
            if isinstance(row, ReplicaRow) and row.service and row.state in _BOOKING:
                for device in row.device_ids:
                    expected.setdefault((row.host_id, device), set()).add(key)
        require(dict(world.ledger.booked()) == expected, "The ledger is not what the live rows hold.")
        for row in durable.working_set():
            mine = world.row(row.key)
            require(
                mine is not None and durable_part(mine) == durable_part(row),
                f"{row.key} in memory is not what the store has.",
            )
        queued = {
            row.uid
            for row in durable.working_set()
            if isinstance(row, JobRow) and row.state == JobState.JOB_STATE_PENDING
        }
        waiting = set(world.queue.uids())
        require(queued <= waiting, f"{sorted(queued - waiting)} are PENDING but not queued.")

    def check_end(self, durable: DurableRows, requests: dict[str, str]) -> None:
        """Check the end: every job terminal, every request answered by one job, every cancel kept."""
        jobs = [row for row in durable.rows.values() if isinstance(row, JobRow)]
        for job in jobs:
            require(job.state in _TERMINAL, f"Job {job.uid} is stuck in {JobState.Name(job.state)}.")
            require(job.uid not in self._live, f"Job {job.uid} has ended with a live attempt.")
            kept = job.uid not in self._cancelled or job.state != JobState.JOB_STATE_FAILED
            require(kept, f"Job {job.uid} was cancelled and ended as FAILED.")
        made = len(jobs) + self.deleted
        require(made == len(requests), f"{len(requests)} requests made {made} jobs.")
        require(not self._devices, f"{sorted(self._devices)} are still booked.")

    def _check_fence(self, event: ManifestCommitted | EventsReported, changes: Sequence[Change]) -> None:
        inserted = any(
            isinstance(change, RowChange) and change.old is None and isinstance(change.new, ManifestRow)
            for change in changes
        )
        appended = any(isinstance(change, EventsAppended) for change in changes)
        if not inserted and not appended:
            return
        live = self._live.get(event.job_uid)
        what = "a manifest" if inserted else "events"
        require(
            live is not None
            and live.attempt == event.attempt
            and live.fencing_number == event.fencing_number == self._highest_fence[event.job_uid],
            f"Attempt {event.attempt} with the stale fence {event.fencing_number} committed {what} of "
            f"job {event.job_uid}.",
        )

    def _book(self, row: AttemptRow) -> None:
        uid = row.job_uid
        before = self._live.get(uid)
        if before is not None and before.attempt == row.attempt:
            for device in before.device_ids:
                self._devices.pop((before.host_id, device), None)
            del self._live[uid]
            before = None
        if row.state == AttemptState.ENDED:
            return
        require(before is None, f"Job {uid} has two live attempts.")
        highest = self._highest_fence.get(uid, 0)
        require(row.fencing_number >= highest, f"Job {uid} went back to fence {row.fencing_number}.")
        self._highest_fence[uid] = row.fencing_number
        self._live[uid] = row
        for device in row.device_ids:
            holder = self._devices.setdefault((row.host_id, device), row.key)
            require(holder == row.key, f"Device {device} of {row.host_id} is booked twice.")

    def _check_events(self, appended: EventsAppended) -> None:
        uid = appended.job_uid
        for event in JobEvents.FromString(appended.payload).events:
            expected = self._sequence.get(uid, 0) + 1
            require(event.sequence == expected, f"Job {uid}: event {event.sequence} after {expected - 1}.")
            self._sequence[uid] = expected
            if event.source_sequence:
                key = (uid, event.attempt)
                source = self._source.get(key, 0) + 1
                require(
                    event.source_sequence == source,
                    f"Job {uid}, attempt {event.attempt}: source event {event.source_sequence} "
                    f"after {source - 1}.",
                )
                self._source[key] = source
        require(appended.last_sequence == self._sequence[uid], f"Job {uid}: a segment ends elsewhere.")

    def _check_job(self, job: JobRow, durable: DurableRows) -> None:
        require(job.last_sequence == self._sequence.get(job.uid, 0), f"Job {job.uid} counts other events.")
        if job.state in _TERMINAL:
            require(job.uid not in self._live, f"Job {job.uid} has ended with a live attempt.")
        if job.state == JobState.JOB_STATE_PAUSED:
            require(job.uid not in self._live, f"Job {job.uid} is PAUSED with a live attempt.")
            held = [device for device, holder in self._devices.items() if holder[1] == job.uid]
            require(not held, f"Job {job.uid} is PAUSED and holds {held}.")
        if job.state == JobState.JOB_STATE_SUCCEEDED:
            known = ("manifest", job.output_digest, job.uid) in durable.rows
            require(known, f"Job {job.uid} succeeded without a committed output.")
        if job.state == JobState.JOB_STATE_CANCELLED:
            require(job.uid in self._cancelled, f"Job {job.uid} is CANCELLED and nobody asked for it.")
