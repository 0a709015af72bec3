"""A coordinator with TLS on loopback, and services that join it as if from other machines."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "chaos"))
sys.path.insert(0, str(Path(__file__).parent))

from joined_fleet import JoinedFleet


@pytest.fixture
async def fleet() -> AsyncIterator[JoinedFleet]:
    """A coordinator and its blobs process, without services."""
    pytest.importorskip("cryptography", reason="TLS needs cryptography: pip install 'tunefleet[tls]'")
    root = Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))
    running = JoinedFleet(root)
    try:
        await running.start_coordinator()
        yield running
    finally:
        await running.close()
        shutil.rmtree(root, ignore_errors=True)
