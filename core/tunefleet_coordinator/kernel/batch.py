"""One batch on its way: inputs, what was decided, and what became of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from tunefleet_coordinator.store import Conflict, Dependent
from tunefleet_core.errors import TunefleetError, from_exception
from tunefleet_core.lifecycle import (
    Decision,
    Input,
    Key,
    Policy,
    Response,
    World,
    decide,
    is_durable,
)

__all__ = ["Item", "Outcome", "decide_and_apply", "take_back"]

_log = logging.getLogger(__name__)
_MOST_TRIES = 3


@dataclass(slots=True, kw_only=True, eq=False)
class Item:
    """An input, the future of its answer, and how often it was decided."""

    event: Input
    answer: asyncio.Future[Response]
    decision: Decision = field(default_factory=Decision)
    tries: int = 0

    @property
    def is_durable(self) -> bool:
        """Whether the store has to write what was decided."""
        return any(is_durable(change) for change in self.decision.changes)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of a batch whose commit failed, in part or as a whole."""

    done: list[Item] = field(default_factory=list[Item])
    """Decided and, if there was anything to write, durable."""
    refused: list[tuple[Item, TunefleetError]] = field(default_factory=list[tuple[Item, TunefleetError]])
    redo_volatile: list[Item] = field(default_factory=list[Item])
    """To be decided again, apart from what writes: heartbeats count even on a full disk."""
    redo: list[Item] = field(default_factory=list[Item])
    reread: set[Key] = field(default_factory=set[Key])
    """Rows in which memory and store have come apart."""


def decide_and_apply(world: World, item: Item, policy: Policy) -> None:
    """Decide an input on the world as its predecessors left it, and apply that."""
    item.tries += 1
    try:
        item.decision = decide(world, item.event, policy)
        if item.decision.error is None:
            world.apply(item.decision.changes)
    except Exception as error:
        # A fault of the core must cost this input, not the coordinator and everybody's work.
        _log.exception("Could not decide %s.", type(item.event).__name__)
        item.decision = Decision(error=from_exception(error))


def take_back(world: World, items: Sequence[Item], results: Sequence[TunefleetError | None]) -> Outcome:
    """Bring the world to what is durable, and say what to do with each item.

    Everything from the first failure on is undone, then what was committed is applied again:
    its rows are untouched by what failed, or the store would have refused it as Dependent.
    """
    outcome = Outcome()
    first = next(index for index, result in enumerate(results) if result is not None)
    for item in reversed(items[first:]):
        if item.decision.error is None:
            world.revert(item.decision.changes)
    outcome.done += items[:first]
    for item, result in zip(items[first:], results[first:], strict=True):
        if result is None and item.is_durable:
            world.apply(item.decision.changes)
            outcome.done.append(item)
        elif not item.is_durable:
            outcome.redo_volatile.append(item)
        elif item.tries < _MOST_TRIES and isinstance(result, Conflict | Dependent):
            if isinstance(result, Conflict):
                outcome.reread |= result.keys
            outcome.redo.append(item)
        else:
            outcome.refused.append((item, result or Dependent()))
    return outcome
