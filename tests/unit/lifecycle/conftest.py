"""A desk: the deciding core on a world, with a store of dictionaries behind it."""

from __future__ import annotations

import pytest

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import (
    AttemptRow,
    Booted,
    Decision,
    Input,
    JobRow,
    ManifestRow,
    Policy,
    Response,
    Tick,
    World,
    decide,
    wanted_keys,
)
from tunefleet_core.testing import samples
from tunefleet_core.testing.simulation.durable import DurableRows


class Desk:
    """Decides, applies, commits, settles."""

    def __init__(self) -> None:
        self.world = World()
        self.durable = DurableRows()
        self.policy = Policy(lease_term_seconds=15, backoff_base_seconds=0.5, backoff_cap_seconds=60)

    def decide(self, event: Input) -> Decision:
        self.world.recall(self.durable.fetch(self.world.missing(wanted_keys(event))))
        return decide(self.world, event, self.policy)

    def do(self, event: Input) -> Response:
        decision = self.decide(event)
        if decision.error is not None:
            self.world.settle()
            raise decision.error
        self.world.apply(decision.changes)
        self.durable.commit(decision.changes)
        self.world.settle()
        assert decision.response is not None
        return decision.response

    def refused(self, event: Input) -> TunefleetError:
        with pytest.raises(TunefleetError) as caught:
            self.do(event)
        return caught.value

    def tick(self, now: float) -> None:
        self.do(Tick(at=samples.moment(now), due=self.world.take_due(now)))

    def restart(self, now: float) -> None:
        self.world = World(self.durable.working_set())
        self.do(Booted(at=samples.moment(now)))

    def job(self, job_id: str = "job") -> JobRow:
        row = self.durable.rows[("job", f"uid-of-{job_id}", 0)]
        assert isinstance(row, JobRow)
        live = self.world.job(row.uid)
        return row if live is None else live

    def live(self, job_id: str = "job") -> AttemptRow:
        attempt = self.world.live_attempt(f"uid-of-{job_id}")
        assert attempt is not None
        return attempt

    def events(self, job_id: str = "job") -> list[JobEvent]:
        return self.durable.events[f"uid-of-{job_id}"]

    def kinds(self, job_id: str = "job") -> list[str]:
        return [str(event.WhichOneof("payload")) for event in self.events(job_id)]

    def run(self, now: float, job_id: str = "job") -> AttemptRow:
        """Report the live attempt of a job as running."""
        attempt = self.live(job_id)
        epoch = self.epoch(attempt.service)
        self.do(samples.report(now, samples.attempt_status(attempt), attempt.service, epoch))
        return self.live(job_id)

    def end(
        self,
        now: float,
        outcome: AttemptOutcome.ValueType,
        *,
        reason: Reason | None = None,
        output: str = "",
        job_id: str = "job",
    ) -> None:
        """Report the end of the live attempt of a job."""
        attempt = self.live(job_id)
        error = None if reason is None else samples.failure(reason)
        status = samples.attempt_status(attempt, outcome=outcome, error=error, output=output)
        self.do(samples.report(now, status, attempt.service, self.epoch(attempt.service)))

    def commit(self, now: float, job_id: str = "job", **asked: object) -> ManifestRow:
        kind = asked.pop("kind", ArtifactKind.ARTIFACT_KIND_ADAPTER)
        row = self.do(samples.commit(now, self.live(job_id), kind=kind, **asked))  # type: ignore[arg-type]
        assert isinstance(row, ManifestRow)
        return row

    def epoch(self, name: str) -> int:
        service = self.world.service(name)
        assert service is not None
        return service.epoch


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture(scope="session")
def new_desk() -> type[Desk]:
    """For tests that need one per example."""
    return Desk


@pytest.fixture
def running(desk: Desk) -> Desk:
    """One trainer that runs `job`."""
    desk.do(samples.attached(0))
    desk.do(samples.submit(0))
    desk.run(0)
    return desk
