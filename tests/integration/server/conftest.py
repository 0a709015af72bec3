"""A fake coordinator in the test's loop and a real server process that attaches to it."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_coordinator import FakeCoordinator, running_coordinator
from service_process import ServiceProcess

from tunefleet.fleet.v1.fleet_pb2 import DeploymentAssignment
from tunefleet.model.v1.base_pb2 import BaseFacts

LEASE_SECONDS = 2.0


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[FakeCoordinator]:
    async with running_coordinator(tmp_path / "store", LEASE_SECONDS) as running:
        yield running


@pytest.fixture
async def server(
    request: pytest.FixtureRequest, coordinator: FakeCoordinator, tmp_path: Path
) -> AsyncIterator[ServiceProcess]:
    """A running server; indirect parameters are its lease in seconds."""
    lease_seconds = getattr(request, "param", LEASE_SECONDS)
    state = tmp_path / "state"
    state.mkdir()
    process = ServiceProcess("tunefleet_services.server", port=coordinator.port, state=state)
    await process.start("--lease-seconds", str(lease_seconds))
    try:
        yield process
    finally:
        await process.clean_up()


@pytest.fixture
def base(tmp_path: Path) -> BaseFacts:
    """A base for the echo engine, which reads nothing of it."""
    folder = tmp_path / "tiny-base"
    folder.mkdir()
    return BaseFacts(model=str(folder), path=str(folder), base_digest="b" * 64, tokenizer_digest="c" * 64)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "ECHO"}))
    return folder


def deployment(
    uid: str, base: BaseFacts, *, model: str = "", digest: str = "", engine: str = "echo"
) -> DeploymentAssignment:
    """A deployment of a base, or of an adapter if a digest is given."""
    return DeploymentAssignment(
        deployment=f"projects/default/deployments/{uid}",
        deployment_uid=uid,
        engine=engine,
        base=base,
        adapter_manifest_digest=digest,
        engine_model=f"{model or 'base'}@{(digest or base.base_digest)[:12]}",
    )


@pytest.fixture
def deploy() -> type[DeploymentAssignment]:
    return deployment  # type: ignore[return-value]  # a function, offered as a fixture
