"""A contract host ends when its owner is silent for a lease, and not while it answers it."""

from __future__ import annotations

import asyncio
import os

from tunefleet_core.backend import backend_manifest
from tunefleet_core.worker.backend_host import BackendHost

_LEASE_SECONDS = 0.1


async def test_a_call_that_takes_longer_than_a_lease_is_a_sign_of_life() -> None:
    manifest = backend_manifest(
        name="slow", distribution="slow", summary="s", capabilities=[], device_kinds=["cpu"]
    )
    async with asyncio.TaskGroup() as group:
        host = BackendHost(manifest, lease_seconds=_LEASE_SECONDS, owner_pid=os.getppid(), group=group)
        watching = group.create_task(host.watch_owner())
        with host.answering():
            await asyncio.sleep(10 * _LEASE_SECONDS)
            assert not watching.done()
        async with asyncio.timeout(30):
            await watching
