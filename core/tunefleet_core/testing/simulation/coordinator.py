"""The simulated coordinator: the real deciding core, a store of dictionaries, and crashes.

It decides, commits, and only then answers and pushes desired sets, as the real one does.
A crash loses the world and every session, at any point of that order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from tunefleet_core.errors import TunefleetError
from tunefleet_core.lifecycle import (
    Booted,
    Decision,
    DesiredView,
    Input,
    Moment,
    Policy,
    Response,
    Tick,
    World,
    decide,
    desired_for,
    services_touched,
    wanted_keys,
)
from tunefleet_core.testing.simulation.durable import DurableRows
from tunefleet_core.testing.simulation.invariants import Checker
from tunefleet_core.testing.simulation.loop import Loop

__all__ = ["Answer", "Decide", "SimulatedCoordinator"]

Answer: TypeAlias = Response | TunefleetError
Decide: TypeAlias = Callable[[World, Input, Policy], Decision]
Push: TypeAlias = Callable[[str, int, int, DesiredView], None]
"""Sends (service, session epoch, generation, what to hold)."""

_START = 1_000_000.0
"""Monotonic clock of the first boot; every boot has another, as real machines do."""


class SimulatedCoordinator:
    """Handles inputs one at a time; `is_up` is False between a crash and the next boot."""

    def __init__(
        self, loop: Loop, policy: Policy, checker: Checker, push: Push, decide_with: Decide = decide
    ) -> None:
        self.durable = DurableRows()
        self.policy = policy
        self.is_up = False
        self.crash_share = 0.0
        """Chance that an input crashes it before its commit, and again after."""
        self.world = World()
        self._loop = loop
        self._checker = checker
        self._push = push
        self._decide = decide_with
        self.boots = 0
        self._generation = 0

    def moment(self) -> Moment:
        """Return the moment by the clock of this boot."""
        return Moment(now=self._loop.now + _START * self.boots, wall=self._loop.now)

    def boot(self) -> None:
        """Start from what is durable."""
        self.boots += 1
        self.is_up = True
        rows = self.durable.working_set()
        number = 1 + sum(1 for key in self.durable.rows if key[0] == "job")
        self.world = World(rows, next_queue_number=number)
        self.handle(Booted(at=self.moment()))
        self._keep_time(self.boots)

    def crash(self) -> None:
        """Lose everything but the store, and come back after a while."""
        self.is_up = False
        self._loop.after(self._loop.chance.uniform(0.1, 2 * self.policy.lease_term_seconds), self._revive)

    def _revive(self) -> None:
        if not self.is_up:
            self.boot()

    def handle(self, event: Input) -> Answer | None:
        """Carry out an input; None if it crashed on the way."""
        if not self.is_up:
            return None
        self.world.recall(self.durable.fetch(self.world.missing(wanted_keys(event))))
        decision = self._decide(self.world, event, self.policy)
        if decision.error is not None:
            self.world.settle()
            return decision.error
        if self._crashes():
            return None  # decided, not durable: as if it had never been
        self._checker.before_commit(self.durable, event, decision.changes)
        self.world.apply(decision.changes)
        self.durable.commit(decision.changes)
        touched = services_touched(self.world, decision.changes)
        self.world.settle()
        self._checker.after_commit(self.durable, self.world, decision.changes)
        if self._crashes():
            return None  # durable, but nobody was told
        for name in sorted(touched):
            self._tell(name)
        return decision.response

    def _crashes(self) -> bool:
        if self.crash_share and self._loop.chance.random() < self.crash_share:
            self.crash()
            return True
        return False

    def _tell(self, name: str) -> None:
        service = self.world.service(name)
        if service is not None and service.description:  # also one that is silent: its stream may live
            self._generation += 1
            self._push(name, service.epoch, self._generation, desired_for(self.world, name))

    def _keep_time(self, boot: int) -> None:
        if not self.is_up or boot != self.boots:
            return
        at = self.moment()
        due = self.world.take_due(at.now)
        if due:
            answer = self.handle(Tick(at=at, due=due))
            if isinstance(answer, TunefleetError):
                raise RuntimeError(f"A tick was refused: {answer}")
        longest, next_due = self.policy.lease_term_seconds / 10, self.world.deadlines.next()
        seconds = longest if next_due is None else min(longest, max(0.01, next_due - self.moment().now))
        self._loop.after(seconds, lambda: self._keep_time(boot))
