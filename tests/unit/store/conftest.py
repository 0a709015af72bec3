"""A store on a real file, and a desk that decides and commits into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tunefleet_coordinator.store import Store
from tunefleet_core.lifecycle import (
    Change,
    Decision,
    Input,
    Policy,
    Response,
    World,
    decide,
    wanted_keys,
)


class Desk:
    """The kernel at its simplest: decides, commits, settles, one input at a time."""

    def __init__(self, store: Store) -> None:
        self.store = store
        durable = store.load()
        self.world = World(durable.rows, next_queue_number=durable.next_queue_number)
        self.policy = Policy()

    def decide(self, event: Input) -> Decision:
        self.world.recall(self.store.fetch(self.world.missing(wanted_keys(event))))
        return decide(self.world, event, self.policy)

    def prepare(self, event: Input) -> tuple[Change, ...]:
        """Decide and apply, but leave the commit to the test."""
        decision = self.decide(event)
        if decision.error is not None:
            raise decision.error
        self.world.apply(decision.changes)
        return decision.changes

    def do(self, event: Input) -> Response:
        decision = self.decide(event)
        if decision.error is not None:
            raise decision.error
        self.world.apply(decision.changes)
        assert self.store.commit([decision.changes]) == [None]
        self.world.settle()
        assert decision.response is not None
        return decision.response


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "store.db")
    yield opened
    opened.close()


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store)
