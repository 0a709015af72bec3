"""A coordinator and a trainer of their own processes, from the harness of the chaos tests."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "chaos"))

from chaos_fleet import ChaosFleet


@pytest.fixture
async def fleet() -> AsyncIterator[ChaosFleet]:
    root = Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))
    running = ChaosFleet(root)
    try:
        await running.start_coordinator()
        await running.start_trainer()
        yield running
    finally:
        await running.close()
        shutil.rmtree(root, ignore_errors=True)
