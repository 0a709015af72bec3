"""A server whose base is still at the Hub fetches it first, and says how far it is."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fake_hub import COMMIT, FakeHub, serving
from test_hub_bases import environment, large_base, read

from tunefleet.fleet.v1.fleet_pb2 import DeploymentAssignment
from tunefleet.model.v1.base_pb2 import BaseFacts

sys.path.append(str(Path(__file__).parents[1] / "server"))
from fake_coordinator import FakeCoordinator, running_coordinator
from service_process import ServiceProcess

UID = "d-fetched"
MODEL = "org/large"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    fake = FakeHub(models={MODEL: large_base(tmp_path / "large")})
    with serving(fake):
        for name, value in environment(tmp_path / "hf", fake).items():
            monkeypatch.setenv(name, value)
        yield fake


@pytest.fixture
async def coordinator(hub: FakeHub, tmp_path: Path) -> AsyncIterator[FakeCoordinator]:
    async with running_coordinator(tmp_path / "store", 2.0) as running:
        yield running


@pytest.fixture
async def server(coordinator: FakeCoordinator, tmp_path: Path) -> AsyncIterator[ServiceProcess]:
    state = tmp_path / "state"
    state.mkdir()
    process = ServiceProcess("tunefleet_services.server", port=coordinator.port, state=state)
    await process.start("--lease-seconds", "2")
    try:
        yield process
    finally:
        await process.clean_up()


async def test_a_server_prepares_before_it_starts_and_tells_how_far_it_is(
    hub: FakeHub, coordinator: FakeCoordinator, server: ServiceProcess, tmp_path: Path
) -> None:
    facts = await asyncio.to_thread(read, MODEL, environment(tmp_path / "hf", hub))
    hub.piece_delay_seconds = 0.06  # some six seconds in all: more than two looks
    base = BaseFacts(model=MODEL, path=facts["path"], commit=COMMIT, base_digest="b" * 64)
    wanted = DeploymentAssignment(
        deployment=f"projects/default/deployments/{UID}",
        deployment_uid=UID,
        engine="echo",
        base=base,
        engine_model="base@bbb",
    )
    await coordinator.want(deployments=[wanted])
    await coordinator.until_state(UID, "PREPARING")
    await coordinator.until_state(UID, "READY")

    states = [state for state, _ in itertools.groupby(state for _, state in coordinator.history)]
    assert states == ["STARTING", "PREPARING", "STARTING", "READY"]
    told = [status.download for status in coordinator.told if status.HasField("download")]
    assert {item.what for item in told} == {f"{MODEL}@{COMMIT[:12]}"}
    done = [item.done_bytes for item in told]
    assert done == sorted(set(done)), "each is told once, and more of it each time"
    assert done[0] < told[0].total_bytes
    assert {item.total_bytes > 90 << 20 for item in told} == {True}


async def test_one_that_is_not_wanted_any_more_while_it_prepares_is_gone_at_once(
    hub: FakeHub, coordinator: FakeCoordinator, server: ServiceProcess, tmp_path: Path
) -> None:
    facts = await asyncio.to_thread(read, MODEL, environment(tmp_path / "hf", hub))
    hub.piece_delay_seconds = 1.0
    base = BaseFacts(model=MODEL, path=facts["path"], commit=COMMIT, base_digest="b" * 64)
    wanted = DeploymentAssignment(deployment_uid=UID, engine="echo", base=base, engine_model="base@bbb")
    await coordinator.want(deployments=[wanted])
    await coordinator.until_state(UID, "PREPARING")
    await coordinator.want(deployments=[])
    await coordinator.until_state(UID, "DELETED")
    assert not server.engines()
