"""A blobs process per test."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from blobs_process import BlobsProcess

from tunefleet_coordinator.store import Store


@pytest.fixture
async def blobs(tmp_path: Path) -> AsyncIterator[BlobsProcess]:
    """A running blobs process, killed at the end."""
    # The reserve of this machine's disk is not what these tests are about.
    # The coordinator makes the store, in which tokens are looked up.
    (tmp_path / "state").mkdir()
    Store.open(tmp_path / "state" / "coordinator.db").close()
    running = BlobsProcess(tmp_path / "state", "--least-free-bytes", "1048576")
    await running.start()
    try:
        yield running
    finally:
        await running.kill()
