"""A coordinator with a blobs process."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "chaos"))
sys.path.insert(0, str(Path(__file__).parent))

from data_fleet import DataFleet


@pytest.fixture
async def fleet() -> AsyncIterator[DataFleet]:
    """A coordinator and a blobs process, without services."""
    root = Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))
    running = DataFleet(root)
    try:
        await running.start_coordinator()
        yield running
    finally:
        await running.close()
        shutil.rmtree(root, ignore_errors=True)
