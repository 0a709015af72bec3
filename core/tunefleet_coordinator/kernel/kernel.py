"""The shell around the pure core: one queue, one writer, group commit, and a timer.

Inputs are decided one after the other on the world in memory, committed together in the
writer thread, and only then answered, shown or signalled: nobody ever acts on something
that a crash could take back. While one group is committed the next one gathers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from tunefleet_coordinator.kernel.batch import Item, decide_and_apply, take_back
from tunefleet_coordinator.kernel.clock import Clock, SystemClock
from tunefleet_coordinator.kernel.histories import HistoryKeeper
from tunefleet_coordinator.kernel.signals import Signal, SignalBoard
from tunefleet_coordinator.store import Store
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import (
    Booted,
    DesiredView,
    Input,
    Key,
    Moment,
    Policy,
    Response,
    Tick,
    World,
    deployments_touched,
    desired_for,
    jobs_touched,
    services_touched,
    wanted_keys,
)

__all__ = ["Kernel"]

_log = logging.getLogger(__name__)
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_TICKS_PER_TERM = 10
_SHORTEST_SLEEP_SECONDS = 0.01  # deadlines that are close together share a tick
_FORGET_EVERY_SECONDS = 600.0
_REMEMBER_REQUESTS_SECONDS = 26 * 3600.0
_DECIDE_BEFORE_YIELD = 50
_DUE_PER_TICK = 100
_HELD = ("job", "attempt", "service", "deployment", "replica", "traffic")
"""Kinds of rows of which the memory has its own copy."""


class Kernel:
    """Decides, commits and answers every input of a coordinator.

    Args:
        store: Opened; closed by the caller after `run` has returned.
        policy: Lease term, back-off.
        clock: For tests.
        queue_limit: Inputs that may wait; `submit` waits for a place beyond that.
        batch_limit: Most inputs per commit.

    Example:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(kernel.run())
            accepted = await kernel.submit(JobSubmitted(at=kernel.moment(), ...))
    """

    def __init__(
        self,
        store: Store,
        policy: Policy,
        clock: Clock | None = None,
        *,
        queue_limit: int = 10_000,
        batch_limit: int = 500,
    ) -> None:
        self.store = store
        self.policy = policy
        self._clock = clock or SystemClock()
        self._batch_limit = batch_limit
        self._world = World()
        self._queue: asyncio.Queue[Item] = asyncio.Queue(queue_limit)
        self._again: deque[list[Item]] = deque()
        self._taken: list[Item] = []
        self._observers: list[Callable[[], None]] = []
        self._is_settled = False
        self._is_stopped = False
        self._ready = asyncio.Event()
        self._wake_at = 0.0
        self._sooner = asyncio.Event()
        self._histories = HistoryKeeper(self)
        self._jobs = SignalBoard()
        self._services = SignalBoard()
        self._deployments = SignalBoard()
        self._writer = ThreadPoolExecutor(1, "store-writer")
        self._reader = ThreadPoolExecutor(1, "store-reader")

    # --- for servicers -----------------------------------------------------------------

    def moment(self) -> Moment:
        """Return the moment for an input that is made now."""
        return self._clock.moment()

    async def submit(self, event: Input) -> Response:
        """Hand in an input and return the answer, once what it changes is durable.

        A caller that stops waiting does not undo anything: the input is carried out.

        Raises:
            TunefleetError: What the input's class documents; DISK_FULL; UNAVAILABLE when stopping.
        """
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        if self._is_stopped:
            raise _stopping()
        await self._queue.put(Item(event=event, answer=answer))
        if self._is_stopped:
            self._abandon()
        return await answer

    async def read(
        self,
        function: Callable[_Parameters, _Result],
        *args: _Parameters.args,
        **kwargs: _Parameters.kwargs,
    ) -> _Result:
        """Read in the reader thread: `await kernel.read(kernel.store.get_job, name)`.

        Raises:
            TunefleetError: UNAVAILABLE when stopping, and what the function raises.
        """
        if self._is_stopped:
            raise _stopping()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader, partial(function, *args, **kwargs))

    async def write(
        self,
        function: Callable[_Parameters, _Result],
        *args: _Parameters.args,
        **kwargs: _Parameters.kwargs,
    ) -> _Result:
        """Write what the world does not hold: `kernel.write(kernel.store.write, insert_dataset, row)`."""
        if self._is_stopped:
            raise _stopping()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._writer, partial(function, *args, **kwargs))

    async def observe(self, look: Callable[[World], _Result]) -> _Result:
        """Look at the world when everything in it is durable. `look` must not keep or change it."""
        if self._is_settled:
            return look(self._world)
        seen: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()

        def observer() -> None:
            if not seen.done():
                seen.set_result(look(self._world))

        self._observers.append(observer)
        return await seen

    def glance(self, look: Callable[[World], _Result]) -> _Result:
        """Look at what only memory holds, as it is this moment: who is attached, and as what.

        Unlike `observe` it waits for no commit, so whatever else is there may yet be taken back.
        """
        return look(self._world)

    async def desired(self, service: str) -> DesiredView:
        """Return what a service is to hold; durable, so it may be told."""
        return await self.observe(lambda world: desired_for(world, service))

    def subscribe_job(self, uid: str) -> Signal:
        """Return a signal that rings when a job changed or got events: `with ... as signal`."""
        return self._jobs.listen(uid)

    def subscribe_deployment(self, uid: str) -> Signal:
        """Return a signal that rings when a deployment changed or got events: `with ... as signal`."""
        return self._deployments.listen(uid)

    def subscribe_service(self, name: str) -> Signal:
        """Return a signal that rings when what a service is to hold may have changed."""
        return self._services.listen(name)

    async def ready(self) -> None:
        """Wait until the world is loaded."""
        await self._ready.wait()

    # --- running -----------------------------------------------------------------------

    async def run(self) -> None:
        """Load the world and work until cancelled. Inputs handed in before wait."""
        try:
            durable = await self.read(self.store.load)
            self._world = World(durable.rows, next_queue_number=durable.next_queue_number)
            await self._process([self._item(Booted(at=self.moment()))])
            self._ready.set()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(), name="kernel-write")
                group.create_task(self._keep_time(), name="kernel-time")
                group.create_task(self._forget(), name="kernel-forget")
                group.create_task(self._histories.run(), name="kernel-histories")
        finally:
            self._is_stopped = True
            self._abandon()
            # A commit may be under way in its thread; the store must not be closed under it.
            for pool in (self._writer, self._reader):
                await asyncio.get_running_loop().run_in_executor(None, pool.shutdown)

    async def _write(self) -> None:
        while True:
            if self._again:
                batch = self._again.popleft()
            else:
                batch = [await self._queue.get()]
                await asyncio.sleep(0)  # whoever was just answered may have its next input at hand
                while len(batch) < self._batch_limit and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
            self._taken = batch
            await self._process(batch)
            self._taken = []

    async def _process(self, batch: list[Item]) -> None:
        self._is_settled = False
        missing = self._world.missing(dict.fromkeys(key for item in batch for key in wanted_keys(item.event)))
        try:
            if missing:
                self._world.recall(await self.read(self.store.fetch, missing))
        except TunefleetError as error:
            self._settle()
            self._refuse(batch, error)
            return
        for number, item in enumerate(batch, 1):
            decide_and_apply(self._world, item, self.policy)
            if number % _DECIDE_BEFORE_YIELD == 0:
                await asyncio.sleep(0)
        results: Sequence[TunefleetError | None] = ()
        if any(item.is_durable for item in batch):
            operations = [item.decision.changes for item in batch]
            loop = asyncio.get_running_loop()
            results = await loop.run_in_executor(self._writer, self.store.commit, operations)
        if any(result is not None for result in results):
            await self._recover(batch, results)
        else:
            self._settle()
            self._answer(batch)

    async def _recover(self, batch: list[Item], results: Sequence[TunefleetError | None]) -> None:
        outcome = take_back(self._world, batch, results)
        _log.error("%d of %d inputs were not committed.", len(batch) - len(outcome.done), len(batch))
        if outcome.reread:
            keys = [key for key in outcome.reread if key[0] in _HELD]
            rows = {row.key: row for row in await self.read(self.store.fetch, keys)}
            for key in keys:
                self._world.resynchronise(key, rows.get(key))
            self._services.ring_all()  # nobody decided these changes, so nobody else tells of them
        self._again.extend(items for items in (outcome.redo_volatile, outcome.redo) if items)
        self._settle()
        self._answer(outcome.done)
        for item, error in outcome.refused:
            self._refuse([item], error)

    def _settle(self) -> None:
        self._world.settle()
        self._is_settled = True
        due = self._world.deadlines.next()
        if due is not None and due < self._wake_at:
            self._sooner.set()
        observers, self._observers = self._observers, []
        for observer in observers:
            observer()

    def _answer(self, items: Sequence[Item]) -> None:
        for item in items:
            decision = item.decision
            if decision.changes:
                self._jobs.ring(jobs_touched(decision.changes))
                self._services.ring(services_touched(self._world, decision.changes))
                self._deployments.ring(deployments_touched(decision.changes))
                self._histories.look_at(decision.changes)
            if item.answer.done():
                continue
            if decision.error is not None:
                item.answer.set_exception(decision.error)
            elif decision.response is not None:
                item.answer.set_result(decision.response)

    def _refuse(self, items: Sequence[Item], error: TunefleetError) -> None:
        for item in items:
            if not item.answer.done():
                item.answer.set_exception(error)

    def _abandon(self) -> None:
        """Answer whatever waits when there is nobody left to carry it out."""
        waiting = [*self._taken, *(item for items in self._again for item in items)]
        while not self._queue.empty():
            waiting.append(self._queue.get_nowait())
        self._again.clear()
        for item in waiting:
            if not item.answer.done():
                item.answer.set_exception(_stopping())

    # --- time --------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        term = self.policy.lease_term_seconds
        interval = term / _TICKS_PER_TERM
        before = self.moment().now
        while True:
            await self._sleep_until_due(before, interval)
            at = self.moment()
            if at.now - before > interval + term / 3:
                # This process did not run (suspended, asleep, starved), so it could not hear anyone.
                _log.warning("The coordinator was away for %.1f s; leases get a fresh term.", at.now - before)
                await self._pass(Booted(at=at))
            due = self._world.take_due(at.now)
            for start in range(0, len(due), _DUE_PER_TICK):
                await self._tick(at, due[start : start + _DUE_PER_TICK])
            before = self.moment().now

    async def _sleep_until_due(self, now: float, longest: float) -> None:
        """Sleep until the earliest deadline, also one that is set meanwhile; never longer than `longest`."""
        until, earliest = now + longest, now + _SHORTEST_SLEEP_SECONDS
        while True:
            due = self._world.deadlines.next()
            self._wake_at = until if due is None else min(until, max(due, earliest))
            left = self._wake_at - self.moment().now
            if left <= 0:
                return
            self._sooner.clear()
            await self._clock.sleep(left, self._sooner)

    async def _tick(self, at: Moment, due: tuple[Key, ...]) -> None:
        if await self._pass(Tick(at=at, due=due)):
            return
        if len(due) > 1:  # one row that cannot be decided must not hold up the others
            for key in due:
                await self._tick(at, (key,))
        else:
            self._world.rearm(due)

    async def _pass(self, event: Tick | Booted) -> bool:
        try:
            await self.submit(event)
        except TunefleetError as error:
            _log.error("%s was not carried out: %s It is tried again.", type(event).__name__, error)
            return False
        return True

    async def _forget(self) -> None:
        limit = 1000
        while True:
            await asyncio.sleep(_FORGET_EVERY_SECONDS)
            before = self.moment().wall - _REMEMBER_REQUESTS_SECONDS
            loop = asyncio.get_running_loop()
            forget = partial(self.store.forget_requests, before, limit)
            try:
                while await loop.run_in_executor(self._writer, forget) >= limit:
                    pass
            except TunefleetError as error:
                _log.error("Old requests were not forgotten: %s", error)

    def _item(self, event: Input) -> Item:
        return Item(event=event, answer=asyncio.get_running_loop().create_future())


def _stopping() -> TunefleetError:
    return TunefleetError(
        Reason.UNAVAILABLE,
        "The coordinator is stopping.",
        hint="Retry with the same request_id; it is carried out at most once.",
    )
