"""A kernel that runs on a real store, with a clock that a test moves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.store import Store
from tunefleet_core.lifecycle import Moment, Policy


class HandClock:
    """A clock that stands still until a test moves it.

    Who sleeps by it looks at it often: real time passes meanwhile, and means nothing.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps_until: list[float] = []

    def moment(self) -> Moment:
        return Moment(now=self.now, wall=1_700_000_000.0 + self.now)

    async def sleep(self, seconds: float, wake: asyncio.Event) -> None:
        until = self.now + seconds
        self.sleeps_until.append(until)
        while self.now < until and not wake.is_set():
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def running(kernel: Kernel) -> AsyncIterator[Kernel]:
    task = asyncio.ensure_future(kernel.run())
    try:
        await kernel.ready()
        yield kernel
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def kernel(path: Path, clock: HandClock) -> AsyncIterator[Kernel]:
    store = Store.open(path)
    async with running(Kernel(store, Policy(lease_term_seconds=0.2), clock)) as started:
        yield started
    store.close()
