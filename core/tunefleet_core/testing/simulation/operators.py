"""People who change their minds: pause and resume, retry, delete, drain and undrain, new versions.

Every one of their calls carries a request id, so that a late double of a call changes
nothing; and whoever pauses or drains takes it back in the end, so that all work can end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from tunefleet_core.errors import TunefleetError
from tunefleet_core.lifecycle import (
    DrainRequested,
    Input,
    JobDeleteRequested,
    Moment,
    PauseRequested,
    PromoteRequested,
    Request,
    ResumeRequested,
    RetryRequested,
    RollbackRequested,
)
from tunefleet_core.testing import samples
from tunefleet_core.testing.simulation.coordinator import Answer
from tunefleet_core.testing.simulation.loop import Loop
from tunefleet_core.testing.simulation.network import MakeInput
from tunefleet_core.testing.simulation.settings import Settings

__all__ = ["Ask", "Operators"]


class Ask(Protocol):
    """Asks until there is an answer, then hands it on."""

    def __call__(self, what: str, make: MakeInput, then: Callable[[Answer], None]) -> None: ...


@dataclass(slots=True, kw_only=True, eq=False)
class Operators:
    """Plans what is done to jobs and services, on top of submits and cancels."""

    loop: Loop
    settings: Settings
    ask: Ask
    outstanding: int = 0
    """Calls that were planned and are not answered yet."""
    _numbers: int = 0

    def plan_job(self, job_id: str, submitted: float) -> None:
        """Plan what happens to one job after its submit."""
        chance, settings = self.loop.chance, self.settings
        if chance.random() < settings.pause_share:
            for _ in range(chance.choice((1, 1, 2))):
                self._plan(submitted + chance.expovariate(0.15), lambda: self._pause(job_id))
        if chance.random() < settings.retry_share:
            self._plan(submitted + chance.expovariate(0.05), lambda: self._retry(job_id))
        if chance.random() < settings.delete_share:
            self._plan(submitted + chance.expovariate(0.03), lambda: self._delete(job_id))

    def plan_drains(self, services: Sequence[str]) -> None:
        """Plan which services are drained for a while."""
        for _ in range(self.settings.drains):
            name = self.loop.chance.choice(services)
            when = self.loop.chance.uniform(0, self.settings.fault_seconds * 0.8)
            self._plan(when, partial(self._drain, name))

    def plan_rollouts(self, deployment_id: str, deployed: float) -> None:
        """Plan new versions of a deployment; some are promoted by hand, some rolled back."""
        for _ in range(self.settings.rollouts):
            chance = self.loop.chance
            when = deployed + chance.expovariate(0.08)
            self._plan(when, partial(self._roll_out, deployment_id))
            if chance.random() < 0.3:
                self._plan(when + chance.expovariate(0.2), partial(self._end_rollout, deployment_id))

    def plan_scaling(self, deployment_id: str, deployed: float) -> None:
        """Plan other numbers of engines for a deployment."""
        for _ in range(self.settings.scalings):
            when = deployed + self.loop.chance.expovariate(0.08)
            self._plan(when, partial(self._scale, deployment_id, self.loop.chance.choice((1, 2, 3))))

    def _scale(self, deployment_id: str, replicas: int) -> None:
        request = self._request("ScaleDeployment")
        self._call(
            f"scale {request.key.request_id}",
            lambda at: replace(samples.scale(0, replicas, deployment_id), at=at, request=request),
        )

    def _roll_out(self, deployment_id: str) -> None:
        request, chance = self._request("RollOutDeployment"), self.loop.chance
        base = chance.choice((b"base one", b"base two"))
        uids = iter(f"{request.key.request_id}-{number}" for number in range(1_000_000))

        def make(at: Moment) -> Input:
            # A fresh uid with every try, as a servicer gives.
            event = samples.roll_out(
                0, deployment_id, version=next(uids), bake_seconds=2, base=base, min_requests=0
            )
            return replace(event, at=at, request=request)

        self._call(f"roll out {request.key.request_id}", make)

    def _end_rollout(self, deployment_id: str) -> None:
        name = f"projects/default/deployments/{deployment_id}"
        verb = self.loop.chance.choice(("PromoteDeployment", "RollBackDeployment"))
        request = self._request(verb)

        def make(at: Moment) -> Input:
            if verb == "PromoteDeployment":
                return PromoteRequested(at=at, request=request, name=name)
            return RollbackRequested(at=at, request=request, name=name)

        self._call(f"{verb} {request.key.request_id}", make)

    def _plan(self, when: float, call: Callable[[], None]) -> None:
        self.outstanding += 1
        self.loop.after(max(0.0, min(when, self.settings.fault_seconds) - self.loop.now), call)

    def _call(self, what: str, make: MakeInput, then: Callable[[Answer], None] | None = None) -> None:
        def answered(answer: Answer) -> None:
            if then is not None:
                then(answer)
            self.outstanding -= 1

        self.ask(what, make, answered)

    def _request(self, method: str) -> Request:
        self._numbers += 1
        return samples.request(f"{method}-{self._numbers}", method=method)

    def _pause(self, job_id: str) -> None:
        name, request = _name(job_id), self._request("PauseJob")

        def resume_later(answer: Answer) -> None:
            # A refusal is not remembered: a late double may yet pause a job that was not there before.
            late = self.settings.latest_seconds if isinstance(answer, TunefleetError) else 0.0
            self.outstanding += 1
            self.loop.after(late + self.loop.chance.expovariate(0.3), lambda: self._resume(job_id))

        self._call(
            f"pause {request.key.request_id}",
            lambda at: PauseRequested(at=at, request=request, name=name),
            resume_later,
        )

    def _resume(self, job_id: str) -> None:
        name, request = _name(job_id), self._request("ResumeJob")
        self._call(
            f"resume {request.key.request_id}",
            lambda at: ResumeRequested(at=at, request=request, name=name),
        )

    def _retry(self, job_id: str) -> None:
        name, request = _name(job_id), self._request("RetryJob")
        from_start = self.loop.chance.random() < 0.3
        self._call(
            f"retry {request.key.request_id}",
            lambda at: RetryRequested(at=at, request=request, name=name, from_start=from_start),
        )

    def _delete(self, job_id: str) -> None:
        name, request = _name(job_id), self._request("DeleteJob")
        self._call(
            f"delete {request.key.request_id}",
            lambda at: JobDeleteRequested(at=at, request=request, name=name),
        )

    def _drain(self, service: str) -> None:
        def undrain_later(answer: Answer) -> None:
            late = self.settings.latest_seconds if isinstance(answer, TunefleetError) else 0.0
            self.outstanding += 1
            undrain = partial(self._set_draining, service, is_draining=False)
            self.loop.after(late + self.loop.chance.uniform(1, 20), undrain)

        self._set_draining(service, is_draining=True, then=undrain_later)

    def _set_draining(
        self, service: str, *, is_draining: bool, then: Callable[[Answer], None] | None = None
    ) -> None:
        request = self._request("DrainService")
        self._call(
            f"drain {request.key.request_id}",
            lambda at: DrainRequested(at=at, request=request, name=service, is_draining=is_draining),
            then,
        )


def _name(job_id: str) -> str:
    return f"projects/default/jobs/{job_id}"
