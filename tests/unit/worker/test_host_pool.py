"""A backend that wants to be kept warm gets its waiting host though the first one did not start."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any, cast

import pytest

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.testing import samples
from tunefleet_services.hosts import HostPool
from tunefleet_services.hosts import pool as pool_module
from tunefleet_services.hosts.backends import BackendDirectory


class _Stub:
    async def GetBackend(self, request: object, timeout: float) -> None:
        """Answer, as a host that lives."""


class _WaitingHost:
    """Stands in for a host: no process."""

    stub = _Stub()


class _Directory:
    def find(self, backend: str) -> tuple[Any, None]:
        installed = samples.backend(backend)
        installed.manifest.keep_warm = True
        return installed, None


async def test_a_host_that_did_not_start_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[float] = []
    waits = asyncio.Event()

    async def start_host(backend: str, *_: object, **__: object) -> _WaitingHost:
        starts.append(asyncio.get_running_loop().time())
        if len(starts) < 4:
            raise TunefleetError(Reason.UNAVAILABLE, "It ended before it answered.", hint="See its log.")
        waits.set()
        return _WaitingHost()

    monkeypatch.setattr(pool_module, "start_host", start_host)
    directory = cast("BackendDirectory", _Directory())
    pool = HostPool(directory, tmp_path, lease_seconds=0.04, warm=True)
    await pool.refill("echo")
    async with asyncio.timeout(20):
        keeping = asyncio.ensure_future(pool.keep_alive())
        await waits.wait()
    await asyncio.sleep(0.1)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert len(starts) == 4, "a host that waits is not started again"
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert gaps[2] >= 0.04, "each try waits longer than the one before: 0.01, 0.02, 0.04 s"
