"""Whoever of the fleet is killed while answers stream: other engines' streams go on, and all serves again.

`tunefleet up` with its server, and a second server beside it whose engine the gateway does not dial: its
requests are carried by a relay. Each has an echo engine, which answers at a pace that is asked for, and
one of two deployments, so that there are streams that a kill must not touch.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import aiohttp
import psutil
import pytest
import pytest_asyncio
from serving_fleet import (
    AGAIN_SECONDS,
    BASE,
    STREAMS,
    ServingFleet,
    opened_session,
    serves_again,
    streaming,
    streaming_of,
)

from tunefleet.deployment.v1.deployment_pb2 import DeploymentSpec, DeploymentState
from tunefleet_client import Client, DeploymentChange
from tunefleet_core.errors import TunefleetError

_WAITING = DeploymentState.DEPLOYMENT_STATE_WAITING_RETRY

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet() -> AsyncIterator[ServingFleet]:
    root = Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))  # unix sockets need short paths
    running = ServingFleet(root, lease_seconds=10)
    try:
        await running.start()
        yield running
        await running.stop_serving()
    finally:
        await running.close()
        shutil.rmtree(root, ignore_errors=True)


@pytest_asyncio.fixture(loop_scope="module")
async def session(fleet: ServingFleet) -> AsyncIterator[aiohttp.ClientSession]:
    async with opened_session(fleet) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(fleet: ServingFleet) -> AsyncIterator[Client]:
    """A deployment `both` of two replicas, on the engines that the two servers have."""
    async with fleet.client() as client:
        await client.deployments.create(
            DeploymentSpec(model=str(BASE), engine="echo", replicas=2), deployment_id="both"
        )
        found = await client.deployments.wait("both", deadline_seconds=60)
        assert {item.service for item in found.replicas} == {"services/server", "services/server-2"}
        async with opened_session(fleet) as session:
            await serves_again(fleet, session, "both", 0.0)
        yield client
        await client.deployments.delete("both")


async def _has(client: Client, ready: int) -> bool:
    found = await client.deployments.get("both")
    return [item.state for item in found.replicas] == [DeploymentState.DEPLOYMENT_STATE_READY] * ready


# Of 16 streams bounded loads leave either replica 6 to 10: were one of them disturbed that is not of the
# killed replica, fewer would be whole.
_LEAST_OF_EITHER = 6
_AVOIDED_SECONDS = 5.5

Measure = Callable[[str, float], None]


async def test_killed_engine_costs_its_own_streams_only_and_is_started_again(
    fleet: ServingFleet, session: aiohttp.ClientSession, measure: Measure
) -> None:
    async with streaming(fleet, session) as (one, two):
        fleet.engine_of("server").kill()
        killed = time.monotonic()
        # Each is told, or cut where there is no place for an event; none is taken for whole.
        ends = await one.ends()
        assert sum(ends.get(end, 0) for end in ("told", "cut")) == STREAMS, ends
        assert await fleet.ask(session, "two") == 200
        measure("engine killed -> serves", await serves_again(fleet, session, "one", killed))
        assert await two.ends() == {"whole": STREAMS}


async def test_one_replica_too_many_waits_and_one_that_is_taken_away_ends_its_streams(
    fleet: ServingFleet, session: aiohttp.ClientSession, both: Client
) -> None:
    scaled = await both.deployments.scale("both", 3)
    assert scaled.state == DeploymentState.DEPLOYMENT_STATE_DEGRADED
    assert scaled.reason.startswith("Replica 3 fits on no server: ")
    assert "server-2 has replica" in scaled.reason
    assert (await both.deployments.wait("both")).etag == scaled.etag, "there is no more to wait for"
    async with streaming_of(fleet, session, "both") as streams:
        scaled = await both.deployments.scale("both", 1)
        ready, draining = DeploymentState.DEPLOYMENT_STATE_READY, DeploymentState.DEPLOYMENT_STATE_DRAINING
        assert (scaled.state, [item.state for item in scaled.replicas]) == (ready, [ready, draining])
        assert [await fleet.ask(session, "both") for _ in range(4)] == [200] * 4
        await fleet.until(lambda: _has(both, 1), "the other one is gone", 30)
        ended = sum(task.done() for task in streams.tasks)
        assert ended >= _LEAST_OF_EITHER, "it was waited for the end of its streams"
        assert await streams.ends() == {"whole": STREAMS}
    assert await fleet.ask(session, "both") == 200
    await both.deployments.scale("both", 2)
    await fleet.until(lambda: _has(both, 2), "it is back", AGAIN_SECONDS)


@pytest.mark.parametrize("service", ["server", "server-2"])
async def test_killed_engine_of_a_replica_costs_no_request_and_no_stream_of_the_other(
    fleet: ServingFleet, session: aiohttp.ClientSession, both: Client, measure: Measure, service: str
) -> None:
    async with streaming_of(fleet, session, "both") as streams:
        fleet.engine_of(service).kill()
        killed = time.monotonic()
        assert [await fleet.ask(session, "both") for _ in range(10)] == [200] * 10
        ends = await streams.ends()
    assert ends["whole"] >= _LEAST_OF_EITHER, ends
    assert STREAMS - ends["whole"] >= _LEAST_OF_EITHER, ends
    await fleet.until(lambda: _has(both, 2), "the replica is back", AGAIN_SECONDS)
    measure("engine of a replica killed -> READY", time.monotonic() - killed)
    await _asked_again(killed)
    events = [change.event async for change in _history(both) if change.event is not None]
    states = {(event.replica, event.state_changed.to) for event in events if event.replica}
    assert len({replica for replica, _ in states}) >= 2
    assert any(
        event.state_changed.to == DeploymentState.DEPLOYMENT_STATE_DEGRADED and not event.replica
        for event in events
    )


async def test_killed_server_of_a_replica_costs_no_request_and_takes_its_replica_back(
    fleet: ServingFleet, session: aiohttp.ClientSession, both: Client
) -> None:
    async with streaming_of(fleet, session, "both") as streams:
        await fleet.kill("server-2")  # its relay with it
        assert [await fleet.ask(session, "both") for _ in range(10)] == [200] * 10
        ends = await streams.ends()
    assert ends["whole"] >= _LEAST_OF_EITHER, ends
    assert STREAMS - ends["whole"] >= _LEAST_OF_EITHER, ends
    await fleet.start_second_server()
    await serves_again(fleet, session, "two", 0.0)
    await fleet.until(lambda: _has(both, 2), "the replica is back", AGAIN_SECONDS)


async def _asked_again(killed: float) -> None:
    """Wait until the gateway no longer asks an engine last because it went away."""
    await asyncio.sleep(max(0.0, killed + _AVOIDED_SECONDS - time.monotonic()))


async def _history(client: Client, name: str = "both") -> AsyncIterator[DeploymentChange]:
    """Yield what is kept of the events of a deployment."""
    last = (await client.deployments.get(name)).last_sequence
    async with aclosing(client.deployments.watch(name)) as changes:
        async for change in changes:
            yield change
            if change.event is not None and change.event.sequence >= last:
                return


async def test_killed_server_disturbs_no_stream_and_takes_its_engine_over(
    fleet: ServingFleet, session: aiohttp.ClientSession
) -> None:
    engine = fleet.engine_of("server").pid
    server = fleet.process_of("tunefleet_services.server", "server")
    async with streaming(fleet, session) as (one, two):
        server.kill()
        for model in ("one", "two"):
            assert await fleet.ask(session, model) == 200
        assert await one.ends() == await two.ends() == {"whole": STREAMS}
    await fleet.until(lambda: "server" in _live(fleet, server.pid), "up starts the server again", 60)
    async with fleet.client() as client:

        async def is_ready() -> bool:
            found = await client.deployments.get("projects/default/deployments/one")
            return found.state == DeploymentState.DEPLOYMENT_STATE_READY

        await fleet.until(is_ready, "the server has told that it serves", 60)
    assert await fleet.ask(session, "one") == 200
    assert fleet.engine_of("server").pid == engine


async def test_killed_relay_cuts_what_it_carries_and_serves_again_with_its_engine(
    fleet: ServingFleet, session: aiohttp.ClientSession, measure: Measure
) -> None:
    engine = fleet.engine_of("server-2").pid
    async with streaming(fleet, session) as (one, two):
        await fleet.kill("server-2")
        killed = time.monotonic()
        ends = await two.ends()
        assert sum(ends.get(end, 0) for end in ("told", "cut")) == STREAMS, ends
        assert await fleet.ask(session, "two") == 503
        await fleet.start_second_server()
        measure("relay killed and started -> serves", await serves_again(fleet, session, "two", killed))
        assert await one.ends() == {"whole": STREAMS}
    assert fleet.engine_of("server-2").pid == engine


def _live(fleet: ServingFleet, but: int) -> set[str]:
    try:
        found = fleet.process_of("tunefleet_services.server", "server")
    except ValueError:  # none yet
        return set()
    return {"server"} if found.pid != but else set()


async def test_killed_coordinator_disturbs_no_stream_and_no_new_request(
    fleet: ServingFleet, session: aiohttp.ClientSession
) -> None:
    async with streaming(fleet, session) as (one, two):
        fleet.process_of("tunefleet_coordinator").kill()
        for model in ("one", "two"):
            assert await fleet.ask(session, model) == 200
        assert await one.ends() == await two.ends() == {"whole": STREAMS}

    async def answers() -> bool:
        try:
            return {"server", "server-2", "gateway"} <= set(await fleet.services())
        except TunefleetError:
            return False

    await fleet.until(answers, "the coordinator is back", 60)
    assert await fleet.ask(session, "one") == 200


async def test_killed_gateway_cuts_its_streams_at_once_and_serves_again(
    fleet: ServingFleet, session: aiohttp.ClientSession, measure: Measure
) -> None:
    async with streaming(fleet, session) as (one, two):
        fleet.process_of("tunefleet_services.gateway").kill()
        killed = time.monotonic()
        assert await one.ends() == await two.ends() == {"cut": STREAMS}
        for model in ("one", "two"):
            measure("gateway killed -> serves", await serves_again(fleet, session, model, killed))


async def test_what_keeps_dying_is_given_up_for_a_while_and_the_wait_outlives_the_coordinator(
    fleet: ServingFleet,
) -> None:
    async with fleet.client() as client:
        spec = DeploymentSpec(model=str(BASE), engine="echo", max_context_tokens=99)  # an engine of its own
        await client.deployments.create(spec, deployment_id="frail")
        await client.deployments.wait("frail", deadline_seconds=60)

        async def is_given_up() -> bool:
            for process in fleet.engines_with(99):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            return (await client.deployments.get("frail")).state == _WAITING

        await fleet.until(is_given_up, "its server gives it up", 60)
        waiting = await client.deployments.get("frail")
        (replica,) = waiting.replicas
        assert waiting.reason == "Replica 1 failed; it is tried again after 5 s, try 2 of 8."
        assert (replica.failures, "WORKER_LOST" in str(waiting.error)) == (1, True)
        due = replica.next_try_time.seconds

        fleet.process_of("tunefleet_coordinator").kill()

        async def is_ready() -> bool:
            try:
                found = await client.deployments.get("frail")
            except TunefleetError:
                return False
            assert found.state == _WAITING or time.time() >= due, "the wait is what it was"
            return found.state == DeploymentState.DEPLOYMENT_STATE_READY

        await fleet.until(is_ready, "it is tried again", 60)
        assert (await client.deployments.get("frail")).replicas[0].failures == 1
        states = [
            change.event.state_changed.to
            async for change in _history(client, "frail")
            if change.event is not None and change.event.HasField("state_changed")
        ]
        assert _WAITING in states
        await client.deployments.delete("frail")
        await fleet.until(lambda: not fleet.engines_with(99), "its engine has ended", 30)


async def test_bounds_given_to_up_hold_at_its_gateway(
    fleet: ServingFleet, session: aiohttp.ClientSession
) -> None:
    assert await fleet.ask(session, "one", pad="x" * (1 << 20)) == 413
    assert await fleet.ask(session, "one", pad="x" * 500_000) == 200


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"messages": 7}, "messages"), ({"max_tokens": 0}, "max_tokens"), ({"pace_ms": "x"}, "pace_ms")],
)
async def test_what_the_engine_refuses_reaches_the_client_with_its_field(
    fleet: ServingFleet, session: aiohttp.ClientSession, fields: dict[str, object], named: str
) -> None:
    body = {"model": "one", "messages": [{"role": "user", "content": "ping"}], **fields}
    async with session.post(f"{fleet.gateway}/v1/chat/completions", json=body) as answer:
        assert answer.status == 400
        error = (await answer.json())["error"]
    assert error["message"].startswith(f"{named}: ")
