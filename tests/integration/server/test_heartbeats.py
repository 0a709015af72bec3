"""When a service gives its signs of life."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from tunefleet.fleet.v1 import fleet_service_pb2_grpc as fleet_grpc
from tunefleet.fleet.v1.fleet_pb2 import DesiredSet
from tunefleet.fleet.v1.fleet_service_pb2 import AttachRequest, AttachResponse, HeartbeatAck, Hello, Welcome
from tunefleet_services.control import Connection, ServiceSession

_INTERVAL_SECONDS = 2.0


class _Listener(fleet_grpc.FleetServiceServicer):
    """Notes when beats come, and answers them."""

    def __init__(self) -> None:
        self.beats: list[float] = []
        self.has_three = asyncio.Event()

    async def Attach(self, requests: AsyncIterator[AttachRequest], context: Any) -> None:
        await anext(requests)
        welcome = Welcome(session_epoch=1)
        welcome.lease_term.FromSeconds(60)
        welcome.heartbeat_interval.FromMilliseconds(int(_INTERVAL_SECONDS * 1000))
        await context.write(AttachResponse(welcome=welcome))
        async for request in requests:
            self.beats.append(asyncio.get_running_loop().time())
            ack = HeartbeatAck(sequence=request.heartbeat.sequence)
            await context.write(AttachResponse(heartbeat_ack=ack))
            if len(self.beats) == 3:
                self.has_three.set()


class _Handler:
    def hello(self) -> Hello:
        return Hello()

    async def welcomed(self, welcome: Welcome) -> None: ...

    async def desired(self, desired: DesiredSet) -> None: ...


async def test_services_that_attach_together_do_not_beat_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.1)
    listener, server = _Listener(), grpc.aio.server()
    fleet_grpc.add_FleetServiceServicer_to_server(listener, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    connection = Connection(address=f"127.0.0.1:{port}", token="t")
    session = asyncio.create_task(ServiceSession(connection, _Handler()).run())
    try:
        async with asyncio.timeout(30):
            await listener.has_three.wait()
    finally:
        session.cancel()
        await asyncio.gather(session, return_exceptions=True)
        await connection.close()
        await server.stop(None)
    first, second, third = listener.beats
    assert second - first < third - second  # after its own share of an interval, then after a whole one
    assert third - second >= 0.9 * _INTERVAL_SECONDS
