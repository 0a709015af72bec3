"""One seed: a fleet, its users, its faults, and then quiet, in which everything must end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.deployment.v1.rollout_pb2 import RolloutState
from tunefleet.fleet.v1.fleet_pb2 import Service, ServiceKind
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.lifecycle import (
    CancelRequested,
    DeploymentDeleteRequested,
    DeploymentRow,
    DesiredView,
    Input,
    JobRow,
    Moment,
    Policy,
    ReplicaRow,
    decide,
)
from tunefleet_core.testing import samples
from tunefleet_core.testing.simulation.coordinator import Answer, Decide, SimulatedCoordinator
from tunefleet_core.testing.simulation.invariants import Checker, InvariantError
from tunefleet_core.testing.simulation.loop import Loop
from tunefleet_core.testing.simulation.network import Link, MakeInput
from tunefleet_core.testing.simulation.operators import Operators
from tunefleet_core.testing.simulation.server import SimulatedServer
from tunefleet_core.testing.simulation.settings import Settings
from tunefleet_core.testing.simulation.trainer import Fate, SimulatedTrainer, fate_of

__all__ = ["Outcome", "run_seed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a seed came to."""

    seed: int
    steps: int
    """Inputs that the coordinator carried out."""
    virtual_seconds: float
    faults: int
    boots: int
    attempts: int
    states: dict[str, int]
    """Jobs by the word of their last state."""
    deleted: int
    """Jobs that were deleted after their end."""
    paused: int
    """Attempts that were paused."""
    interrupted: int
    """Attempts whose service was stopped in order."""
    rolled_out: int
    """Roll-outs that succeeded."""
    rolled_back: int
    """Roll-outs that ended with the version before."""
    replicas_lost: int
    """How often a replica lost its server while others of its version answered."""
    replicas_removed: int
    """Replicas that were taken away from versions that went on."""
    replicas_retried: int
    """How often a replica was to be tried again."""
    replicas_given_up: int
    """Replicas that were tried as often as they may be."""
    digest: str
    """SHA-256 over every event of every job: equal runs have equal digests."""


def run_seed(seed: int, settings: Settings | None = None, decide_with: Decide = decide) -> Outcome:
    """Simulate one seed to its end.

    Args:
        decide_with: The deciding function; a test plants bugs here.

    Raises:
        InvariantError: Something happened that must never happen, or a job never ended.
    """
    return _Simulation(seed, settings or Settings(), decide_with).run()


class _Simulation:
    def __init__(self, seed: int, settings: Settings, decide_with: Decide) -> None:
        self._seed = seed
        self._settings = settings
        self._loop = Loop(seed)
        self._checker = Checker(max(settings.full_check_every, settings.services + settings.jobs))
        policy = Policy(
            lease_term_seconds=settings.lease_term_seconds,
            backoff_base_seconds=0.2,
            backoff_cap_seconds=5,
            replica_tries=settings.replica_tries,
            replica_backoff_base_seconds=2,
            replica_backoff_cap_seconds=8,
            replica_stable_seconds=15,
        )
        self._checker.replicas.tries = settings.replica_tries
        self._coordinator = SimulatedCoordinator(self._loop, policy, self._checker, self._push, decide_with)
        self._peers: dict[str, SimulatedTrainer | SimulatedServer] = {}
        self._users = Link(self._loop, settings, self._coordinator)
        self._links = [self._users]
        self._requests: dict[str, str] = {}
        self._unanswered: dict[str, None] = {}
        self._operators = Operators(loop=self._loop, settings=settings, ask=self._until_answered)
        self._faults = 0

    def run(self) -> Outcome:
        settings = self._settings
        self._build_fleet()
        self._coordinator.boot()
        for peer in self._peers.values():
            self._loop.after(self._loop.chance.uniform(0, 3), peer.start)
        self._plan_work()
        self._loop.after(self._fault_gap(), self._fault)
        while self._loop.now < settings.fault_seconds:
            self._loop.step()
        self._calm_down()
        self._run_until(self._is_over)
        self._checker.check_all(self._coordinator.durable, self._coordinator.world)
        self._checker.check_end(self._coordinator.durable, self._requests)
        self._checker.rollouts.check_over(self._coordinator.durable)
        for index in range(settings.deployments):
            self._deployer(f"afterwards-{index}")()
        if not self._run_until(self._is_served):
            raise InvariantError("A deployment did not become READY in a fleet without faults.")
        return self._outcome()

    def _run_until(self, is_enough: Callable[[], bool]) -> bool:
        """Run to a state or to the end of patience; return whether the state was reached."""
        looked, deadline = self._loop.now, self._loop.now + self._settings.settle_seconds
        while self._loop.now < deadline and self._loop.step():
            if self._loop.now - looked > 1.0:
                looked = self._loop.now
                if is_enough():
                    return True
        return False

    # --- the fleet ---------------------------------------------------------------------

    def _build_fleet(self) -> None:
        for index in range(self._settings.services):
            host = f"host-{index}"
            devices = {f"gpu-{number}": "cuda" for number in range(self._loop.chance.choice((1, 1, 2, 4)))}
            if index == 0:
                devices = {"gpu-0": "cuda", "gpu-1": "cuda"}  # the largest job fits somewhere
            if index % 3 == 2:
                devices = {"cpu-0": "cpu"}
            labels = {"site": "office" if index % 2 == 0 else "home"}
            trainer = samples.service(f"services/t{index}", host=host, devices=devices, labels=labels)
            self._add(trainer, SimulatedTrainer(self._loop, self._link(), trainer, self._fate))
            if index % 5 in (0, 2):
                engine = samples.backend("embedded", capabilities=[Capability.CAPABILITY_SERVE])
                server = samples.service(
                    f"services/s{index}",
                    kind=ServiceKind.SERVICE_KIND_SERVER,
                    host=host,
                    devices=devices,
                    backends=[engine],
                )
                failures = self._settings.replica_failures
                self._add(server, SimulatedServer(self._loop, self._link(), server, failures))

    def _add(self, described: Service, peer: SimulatedTrainer | SimulatedServer) -> None:
        self._peers[described.name] = peer

    def _link(self) -> Link:
        link = Link(self._loop, self._settings, self._coordinator)
        self._links.append(link)
        return link

    def _fate(self, job_uid: str) -> Fate:
        return fate_of(self._seed, job_uid)

    def _push(self, name: str, epoch: int, generation: int, view: DesiredView) -> None:
        peer = self._peers[name]
        peer.link.push(peer.desired, epoch, generation, view)

    # --- the users ---------------------------------------------------------------------

    def _plan_work(self) -> None:
        chance, settings = self._loop.chance, self._settings
        for index in range(settings.jobs):
            job_id = f"job-{index}"
            when = chance.uniform(0, settings.fault_seconds * 0.8)
            self._loop.after(when, self._submitter(job_id))
            if chance.random() < settings.cancel_share:
                self._loop.after(when + chance.expovariate(0.2), self._canceller(job_id))
            self._operators.plan_job(job_id, when)
        self._operators.plan_drains(list(self._peers))
        for index in range(settings.deployments):
            name = f"served-{index}"
            when = chance.uniform(0, settings.fault_seconds * 0.6)
            self._loop.after(when, self._deployer(name))
            self._loop.after(when + chance.uniform(1, settings.fault_seconds), self._deleter(name))
            self._operators.plan_rollouts(name, when)
            self._operators.plan_scaling(name, when)

    def _submitter(self, job_id: str) -> Callable[[], None]:
        chance = self._loop.chance
        devices = 2 if chance.random() < 0.1 else 1
        labels = (("site", "office"),) if chance.random() < 0.2 else ()
        priority = chance.choice((0, 0, 0, 5))
        attempts = chance.randint(2, 6)
        uids = iter(f"uid-{job_id}-{number}" for number in range(1_000_000))

        def make(at: Moment) -> Input:
            # A fresh uid with every try, as a servicer gives: only the request id says it is the same.
            event = samples.submit(
                0,
                job_id,
                uid=next(uids),
                request_id=job_id,
                devices=devices,
                labels=labels,
                priority=priority,
                max_attempts=attempts,
            )
            return replace(event, at=at)

        return lambda: self._until_answered(f"submit {job_id}", make, impatient=True)

    def _canceller(self, job_id: str) -> Callable[[], None]:
        name = f"projects/default/jobs/{job_id}"
        return lambda: self._until_answered(
            f"cancel {job_id}", lambda at: CancelRequested(at=at, request=None, name=name)
        )

    def _deployer(self, name: str) -> Callable[[], None]:
        base = self._loop.chance.choice((b"base one", b"base two"))
        # After the faults as many as there may be servers for: those are to become READY.
        replicas = 1 if name.startswith("afterwards") else self._loop.chance.choice((1, 1, 2, 3))

        def make(at: Moment) -> Input:
            return replace(samples.deployment(0, name, request_id=name, base=base, replicas=replicas), at=at)

        return lambda: self._until_answered(f"deploy {name}", make)

    def _deleter(self, name: str) -> Callable[[], None]:
        full = f"projects/default/deployments/{name}"
        return lambda: self._until_answered(
            f"delete {name}",
            lambda at: DeploymentDeleteRequested(at=at, request=None, name=full, allow_missing=True),
        )

    def _until_answered(
        self,
        what: str,
        make: MakeInput,
        then: Callable[[Answer], None] | None = None,
        *,
        impatient: bool = False,
    ) -> None:
        """Ask until there is an answer; an impatient user asks twice at once."""
        self._unanswered[what] = None
        if what.startswith("submit "):
            self._requests[what] = what

        def answered(answer: Answer | None) -> None:
            if answer is None:
                self._until_answered(what, make, then)
                return
            self._unanswered.pop(what, None)
            if then is not None:
                then(answer)

        self._users.call(make, answered)
        if impatient and self._loop.chance.random() < 0.2:
            self._users.call(make, lambda _: None)

    # --- the faults --------------------------------------------------------------------

    def _fault_gap(self) -> float:
        mean = self._settings.fault_interval_seconds * 20 / max(1, len(self._peers))
        return self._loop.chance.expovariate(1 / mean)

    def _fault(self) -> None:
        if self._loop.now >= self._settings.fault_seconds:
            return
        self._loop.after(self._fault_gap(), self._fault)
        chance = self._loop.chance
        self._faults += 1
        peer = self._peers[chance.choice(list(self._peers))]
        kind = chance.choices(
            ("service", "host", "freeze", "cut", "coordinator", "decision", "stop"), (3, 2, 3, 3, 1, 1, 3)
        )[0]
        term = self._settings.lease_term_seconds
        if kind in ("service", "host") and peer.is_up:
            peer.crash(host=kind == "host")
        elif kind == "stop" and isinstance(peer, SimulatedTrainer):
            peer.stop(chance.uniform(0.5, 6.0))
        elif kind == "freeze":
            peer.freeze(chance.uniform(0.5, 3 * term))
        elif kind == "cut":
            peer.link.is_cut = True
            self._loop.after(chance.uniform(0.2, 3 * term), self._healer(peer.link))
        elif kind == "coordinator" and self._coordinator.is_up:
            self._coordinator.crash()
        elif kind == "decision":
            # For a while every input may be its last, before or after its commit.
            self._coordinator.crash_share = 0.05
            self._loop.after(1.0, lambda: setattr(self._coordinator, "crash_share", 0.0))

    def _healer(self, link: Link) -> Callable[[], None]:
        return lambda: setattr(link, "is_cut", False)

    def _calm_down(self) -> None:
        self._coordinator.crash_share = 0.0
        for link in self._links:
            link.is_cut = False
            link.is_calm = True
        for index in range(self._settings.deployments):
            self._loop.after(self._loop.chance.uniform(0, 5), self._last_deleter(f"served-{index}"))

    def _last_deleter(self, name: str) -> Callable[[], None]:
        """Delete what was deployed, but not before the answer that it was: else it would stay."""

        def delete() -> None:
            if f"deploy {name}" in self._unanswered:
                self._loop.after(1.0, delete)
            else:
                self._deleter(name)()

        return delete

    def _is_over(self) -> bool:
        if self._loop.now < self._settings.fault_seconds + self._settings.latest_seconds:
            return False  # something of before the calm may still be on its way
        if self._unanswered or self._operators.outstanding or not self._coordinator.is_up:
            return False
        world = self._coordinator.world
        if world.jobs():
            return False
        rows = self._coordinator.durable.rows.values()
        return all(row.is_deleted for row in rows if isinstance(row, DeploymentRow | ReplicaRow))

    def _is_served(self) -> bool:
        rows = (row for row in self._coordinator.durable.rows.values() if isinstance(row, DeploymentRow))
        ready = [row for row in rows if row.state == DeploymentState.DEPLOYMENT_STATE_READY]
        return not self._unanswered and len(ready) == self._settings.deployments

    def _outcome(self) -> Outcome:
        durable = self._coordinator.durable
        states: dict[str, int] = {}
        for row in durable.rows.values():
            if isinstance(row, JobRow):
                word = JobState.Name(row.state).removeprefix("JOB_STATE_")
                states[word] = states.get(word, 0) + 1
        digest = hashlib.sha256()
        for uid in sorted(durable.events):
            for event in durable.events[uid]:
                # Details of an error are packed in an order that differs between processes.
                if event.HasField("attempt_ended"):
                    event.attempt_ended.error.ClearField("details")
                digest.update(event.SerializeToString(deterministic=True))
        return Outcome(
            seed=self._seed,
            steps=self._checker.steps,
            virtual_seconds=self._loop.now,
            faults=self._faults,
            boots=self._coordinator.boots,
            attempts=sum(1 for key in durable.rows if key[0] == "attempt"),
            states=dict(sorted(states.items())),
            deleted=self._checker.deleted,
            paused=self._checker.paused,
            interrupted=self._checker.interrupted,
            rolled_out=self._checker.rollouts.ended[RolloutState.ROLLOUT_STATE_SUCCEEDED],
            rolled_back=self._checker.rollouts.ended[RolloutState.ROLLOUT_STATE_ROLLED_BACK],
            replicas_lost=self._checker.replicas.lost,
            replicas_removed=self._checker.replicas.removed,
            replicas_retried=self._checker.replicas.retried,
            replicas_given_up=self._checker.replicas.given_up,
            digest=digest.hexdigest(),
        )
