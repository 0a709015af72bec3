"""A control stream that its caller drops is closed from outside, by whoever finds it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from tunefleet.fleet.v1.fleet_service_pb2 import AttachRequest, Hello
from tunefleet_coordinator.desired_sets import DesiredSets
from tunefleet_coordinator.inspections import InspectionBroker
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.security import TokenBook
from tunefleet_coordinator.sessions import SessionPolicy, Sessions
from tunefleet_core import CONTRACT_VERSION
from tunefleet_core.testing import samples


async def _requests() -> AsyncIterator[AttachRequest]:
    hello = Hello(service=samples.service("services/one"), contract_versions=[CONTRACT_VERSION])
    yield AttachRequest(hello=hello)
    await asyncio.Event().wait()


async def test_a_dropped_stream_ends_quietly_and_its_service_is_detached(kernel: Kernel) -> None:
    desired = DesiredSets(kernel, InspectionBroker(lambda service: None), TokenBook({}))
    sessions = Sessions(kernel, desired, SessionPolicy(lease_term_seconds=10, artifact_store="/store"))
    stream = sessions.serve(_requests())
    assert (await anext(stream)).HasField("welcome")
    assert (await anext(stream)).HasField("desired")
    # Not where it was iterated: gRPC leaves a dropped generator to the loop, which closes it in a task.
    await asyncio.ensure_future(stream.aclose())
    (row,) = await kernel.observe(lambda world: world.services())
    assert (row.name, row.is_attached) == ("services/one", False)
