"""A simulated server: takes deployments up and down, and dies like the others."""

from __future__ import annotations

from google.rpc.status_pb2 import Status

from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.fleet.v1.fleet_pb2 import DeploymentStatus, Service
from tunefleet.job.v1.event_pb2 import Download
from tunefleet_core.errors import TunefleetError
from tunefleet_core.lifecycle import (
    DeploymentReported,
    DesiredView,
    HeartbeatReceived,
    ServiceAttached,
    SessionOpened,
)
from tunefleet_core.testing import samples
from tunefleet_core.testing.simulation.coordinator import Answer
from tunefleet_core.testing.simulation.loop import Loop
from tunefleet_core.testing.simulation.network import Link
from tunefleet_core.testing.simulation.settings import LASTING, PASSING

__all__ = ["SimulatedServer"]

_HEARTBEAT = 1.0
_AT_WORK = (
    DeploymentState.DEPLOYMENT_STATE_PREPARING,
    DeploymentState.DEPLOYMENT_STATE_STARTING,
    DeploymentState.DEPLOYMENT_STATE_READY,
)
_FETCHES = 0.3
"""How often a replica that starts has something fetched first, and is asked again while it is."""


class SimulatedServer:
    """A service process and its engines, which die with it."""

    def __init__(self, loop: Loop, link: Link, described: Service, failures: float = 0.0) -> None:
        self.link = link
        self.name = described.name
        self.is_up = False
        self._loop = loop
        self._described = described
        self._states: dict[str, DeploymentState.ValueType] = {}
        self._life = 0
        self._epoch = 0
        self._generation = 0
        self._missed = 0
        self._early: tuple[int, int, DesiredView] | None = None
        self._failures = failures
        self._errors: dict[str, Status] = {}
        self._tries: dict[str, int] = {}

    def start(self) -> None:
        """Start the service process, holding nothing."""
        if not self.is_up:
            self.is_up = True
            self._life += 1
            self._states.clear()
            self._attach(self._life)

    def crash(self, *, host: bool = True) -> None:
        """Kill it; it comes back by itself."""
        del host  # engines die with their service either way
        self.is_up = False
        self._epoch = 0
        self._loop.after(self._loop.chance.uniform(0.1, 8.0), self.start)

    def freeze(self, seconds: float) -> None:
        """Be cut off for a while: for a server it comes to the same."""
        self.link.is_cut = True
        self._loop.after(seconds, lambda: setattr(self.link, "is_cut", False))

    def desired(self, epoch: int, generation: int, view: DesiredView) -> None:
        """Take in what to hold."""
        if not self.is_up or epoch != self._epoch:
            if self._early is None or (epoch, generation) > self._early[:2]:
                self._early = (epoch, generation, view)
            return
        if generation <= self._generation:
            return
        self._generation = generation
        wanted = {row.uid for row in view.deployments}
        for uid in [uid for uid in self._states if uid not in wanted]:
            self._states[uid] = DeploymentState.DEPLOYMENT_STATE_DELETED
        for row in view.deployments:
            is_new = self._states.get(row.uid) in (None, DeploymentState.DEPLOYMENT_STATE_DELETED)
            if is_new or self._tries[row.uid] != row.replica.earlier_tries:
                self._states[row.uid] = DeploymentState.DEPLOYMENT_STATE_STARTING
                self._tries[row.uid] = row.replica.earlier_tries

    def _attach(self, life: int) -> None:
        if life != self._life or not self.is_up:
            return
        self._epoch, self._missed = 0, 0
        held = tuple(self._status(uid) for uid in self._states)

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

        self.link.call(lambda at: ServiceAttached(at=at, service=self._described, deployments=held), answered)

    def _beat(self, life: int, epoch: int) -> None:
        if life != self._life or epoch != self._epoch or not self.is_up:
            return

        def answered(answer: Answer | None) -> None:
            if life != self._life or epoch != self._epoch or not self.is_up:
                return
            self._missed = self._missed + 1 if answer is None else 0
            if isinstance(answer, TunefleetError) or self._missed >= 3:
                self._attach(life)

        self.link.call(lambda at: HeartbeatReceived(at=at, service=self.name, epoch=epoch), answered)
        for uid, state in list(self._states.items()):
            status = self._status(uid)
            self._report(epoch, status)
            if state in _AT_WORK:
                self._states[uid] = self._next_state(uid)
        self._loop.after(_HEARTBEAT, lambda: self._beat(life, epoch))

    def _next_state(self, uid: str) -> DeploymentState.ValueType:
        chance = self._loop.chance
        if self._states[uid] != DeploymentState.DEPLOYMENT_STATE_READY and chance.random() < _FETCHES:
            return DeploymentState.DEPLOYMENT_STATE_PREPARING
        if self.link.is_calm or chance.random() >= self._failures:
            return DeploymentState.DEPLOYMENT_STATE_READY
        self._errors[uid] = samples.failure(chance.choice((PASSING, PASSING, PASSING, LASTING)))
        return DeploymentState.DEPLOYMENT_STATE_FAILED

    def _report(self, epoch: int, status: DeploymentStatus) -> None:
        def answered(answer: Answer | None) -> None:
            gone = DeploymentState.DEPLOYMENT_STATE_DELETED
            uid = status.deployment_uid
            if answer is not None and status.state == gone and self._states.get(uid) == gone:
                del self._states[uid]

        self.link.call(
            lambda at: DeploymentReported(at=at, service=self.name, epoch=epoch, status=status), answered
        )

    def _status(self, uid: str) -> DeploymentStatus:
        state = self._states[uid]
        address = f"http://{self.name}" if state == DeploymentState.DEPLOYMENT_STATE_READY else ""
        has_failed = state == DeploymentState.DEPLOYMENT_STATE_FAILED
        is_preparing = state == DeploymentState.DEPLOYMENT_STATE_PREPARING
        error = self._errors[uid] if has_failed else None
        return DeploymentStatus(
            deployment_uid=uid,
            state=state,
            engine_address=address,
            error=error,
            earlier_tries=self._tries[uid],
            download=Download(done_bytes=self._loop.chance.randrange(9)) if is_preparing else None,
        )
