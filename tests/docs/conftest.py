"""The fleet that the examples of the documentation talk to, as a reader would have started it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
sys.path.insert(0, str(Path(__file__).parents[1] / "chaos"))

from local_fleet import LocalFleet, missing_backend


class EchoFleet(LocalFleet):
    """`tunefleet up` with no environment of a backend: only echo is there."""

    async def warmed(self, backend: str) -> None:
        """Wait for nothing: echo is ready when it is asked."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def echo_fleet() -> AsyncIterator[LocalFleet]:
    """A running fleet that only has echo."""
    root = Path(tempfile.mkdtemp(prefix="tf-docs-", dir="/tmp"))  # unix sockets need short paths
    async for fleet in _running(EchoFleet(root, extra={"TUNEFLEET_ENVS": str(root / "envs")}), root):
        yield fleet


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trl_fleet() -> AsyncIterator[LocalFleet]:
    """A running fleet with trl and embedded."""
    if missing := missing_backend("trl", "embedded"):
        pytest.skip(missing)
    root = Path(tempfile.mkdtemp(prefix="tf-docs-", dir="/tmp"))
    async for fleet in _running(LocalFleet(root), root):
        yield fleet


async def _running(fleet: LocalFleet, root: Path) -> AsyncIterator[LocalFleet]:
    try:
        await fleet.start()
        yield fleet
    finally:
        await fleet.close()
        shutil.rmtree(root, ignore_errors=True)
