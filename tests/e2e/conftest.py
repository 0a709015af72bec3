"""A fleet per module, on a state folder of its own, proven gone at the end."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "chaos"))

from local_fleet import LocalFleet, missing_backend


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet() -> AsyncIterator[LocalFleet]:
    """A running fleet with trl and embedded."""
    if missing := missing_backend("trl", "embedded"):
        pytest.skip(missing)
    root = Path(tempfile.mkdtemp(prefix="tf-e2e-", dir="/tmp"))  # unix sockets need short paths
    running = LocalFleet(root)
    try:
        await running.start()
        yield running
    finally:
        await running.close()
        shutil.rmtree(root, ignore_errors=True)
