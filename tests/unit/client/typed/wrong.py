"""Code that must not type-check: each line that is wrong names its rule. Read by test_types.py, never run."""

from __future__ import annotations

from tunefleet_client import connect
from tunefleet_client import sync as blocking


async def asynchronous() -> None:
    async with connect() as client:
        print(client.jobs.get("a").name)  # expect: reportAttributeAccessIssue
        await client.jobs.create(7)  # expect: reportArgumentType
        await client.jobs.create()  # expect: reportCallIssue
        await client.jobs.create("job.yaml", "my-id")  # expect: reportCallIssue
        await client.jobs.cancle("a")  # expect: reportAttributeAccessIssue
        await client.jobs.update("a", priority="high")  # expect: reportArgumentType
        await client.jobs.list(states=["FAILED"])  # expect: reportArgumentType
        for _ in client.jobs.watch("a"):  # expect: reportGeneralTypeIssues
            pass
        async for change in client.jobs.watch("a"):
            print(change.event.sequence)  # expect: reportOptionalMemberAccess
        await client.chat("m", "hello")  # expect: reportGeneralTypeIssues
        client.chat("m", [{"role": 1}])  # expect: reportArgumentType
    connect(port=7000)  # expect: reportCallIssue


def synchronous() -> None:
    with blocking.connect() as client:
        print(client.jobs.get("a").nmae)  # expect: reportAttributeAccessIssue
        client.jobs.watch(1)  # expect: reportArgumentType
        client.job.list()  # expect: reportAttributeAccessIssue
        client.fleet.drain()  # expect: reportCallIssue
