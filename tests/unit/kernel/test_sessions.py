"""A control stream that its caller drops is closed from outside, by whoever finds it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from tunefleet.fleet.v1.fleet_pb2 import DesiredSet
from tunefleet.fleet.v1.fleet_service_pb2 import AttachRequest, Hello, ServiceHeartbeat
from tunefleet_coordinator.desired_sets import DesiredSets
from tunefleet_coordinator.inspections import InspectionBroker
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.security import MemberBook, TokenBook
from tunefleet_coordinator.sessions import SessionPolicy, Sessions
from tunefleet_core import CONTRACT_VERSION
from tunefleet_core.testing import samples


async def _requests() -> AsyncIterator[AttachRequest]:
    hello = Hello(service=samples.service("services/one"), contract_versions=[CONTRACT_VERSION])
    yield AttachRequest(hello=hello)
    await asyncio.Event().wait()


async def test_a_dropped_stream_ends_quietly_and_its_service_is_detached(kernel: Kernel) -> None:
    desired = DesiredSets(kernel, InspectionBroker(lambda service: None), TokenBook({}), MemberBook())
    sessions = Sessions(kernel, desired, SessionPolicy(lease_term_seconds=10, artifact_store="/store"))
    stream = sessions.serve(_requests())
    assert (await anext(stream)).HasField("welcome")
    assert (await anext(stream)).HasField("desired")
    # Not where it was iterated: gRPC leaves a dropped generator to the loop, which closes it in a task.
    await asyncio.ensure_future(stream.aclose())
    (row,) = await kernel.observe(lambda world: world.services())
    assert (row.name, row.is_attached) == ("services/one", False)


class CountedSets(DesiredSets):
    """Desired sets that count how often one was built."""

    built = 0

    async def build(self, service: str) -> DesiredSet:
        """Count, then build."""
        self.built += 1
        return await super().build(service)


async def test_a_heartbeat_is_answered_without_building_what_cannot_have_changed(kernel: Kernel) -> None:
    broker = InspectionBroker(lambda service: None)
    desired = CountedSets(kernel, broker, TokenBook({}), MemberBook())
    sessions = Sessions(kernel, desired, SessionPolicy(lease_term_seconds=10, artifact_store="/store"))
    beats = asyncio.Queue[int]()

    async def requests() -> AsyncIterator[AttachRequest]:
        hello = Hello(service=samples.service("services/one"), contract_versions=[CONTRACT_VERSION])
        yield AttachRequest(hello=hello)
        while True:
            yield AttachRequest(heartbeat=ServiceHeartbeat(sequence=await beats.get()))

    stream = sessions.serve(requests())
    assert (await anext(stream)).HasField("welcome")
    assert (await anext(stream)).HasField("desired")
    before = desired.built
    for sequence in (1, 2, 3):
        await beats.put(sequence)
        assert (await anext(stream)).heartbeat_ack.sequence == sequence
    assert desired.built == before
    sessions.desired_changed("services/one")
    await beats.put(4)
    assert (await anext(stream)).heartbeat_ack.sequence == 4
    assert desired.built == before + 1
    await asyncio.ensure_future(stream.aclose())
