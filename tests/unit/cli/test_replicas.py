"""Replicas from the terminal: asked for, scaled, told of."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.deployment.v1.deployment_service_pb2 import CreateDeploymentRequest, ScaleDeploymentRequest
from tunefleet.deployment.v1.rollout_pb2 import DeploymentEvent, DeploymentStateChanged
from tunefleet_cli.main import cli
from tunefleet_cli.output.rollouts import deployment_event_lines
from tunefleet_client.testing import FakeCoordinator


@pytest.fixture(autouse=True)
def _state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNEFLEET_STATE", str(tmp_path / "state"))


async def run(*arguments: str) -> tuple[int, str, str]:
    ended = await asyncio.to_thread(CliRunner().invoke, cli, list(arguments))
    return ended.exit_code, ended.stdout, ended.stderr


async def test_a_number_of_engines_is_asked_for_and_changed(fleet: FakeCoordinator) -> None:
    assert (await run("deploy", "better", "--name", "many", "--replicas", "3"))[0] == 0
    code, stdout, stderr = await run("deployments", "scale", "tickets", "3")
    assert (code, stdout) == (0, "tickets\n")
    assert "tickets takes traffic with 2 of 3 replicas." in stderr
    (created,) = (item for item in fleet.requests if isinstance(item, CreateDeploymentRequest))
    (scaled,) = (item for item in fleet.requests if isinstance(item, ScaleDeploymentRequest))
    assert (created.spec.replicas, scaled.replicas) == (3, 3)


async def test_what_serves_with_some_of_its_replicas_is_waited_for_no_longer(fleet: FakeCoordinator) -> None:
    (found,) = (item for item in fleet.deployments.values() if item.name.endswith("/tickets"))
    fleet.deployments[f"{found.name}-2"] = found  # as if it were the answer to the deploy
    code, _, stderr = await run("deploy", "better", "--name", "tickets-2", "--wait", "--timeout", "20")
    assert code == 0
    assert "takes traffic with 1 of 2 replicas. Replica 2 fits on no server" in stderr


@pytest.mark.parametrize("count", ["0", "101", "two"])
async def test_a_number_that_cannot_be_is_a_usage_error(fleet: FakeCoordinator, count: str) -> None:
    assert (await run("deployments", "scale", "tickets", count))[0] == 2
    assert (await run("deploy", "better", "--replicas", count))[0] == 2


def test_an_event_names_its_replica_and_where_it_is() -> None:
    event = DeploymentEvent(version=1, replica=2)
    event.state_changed.CopyFrom(
        DeploymentStateChanged(to=DeploymentState.DEPLOYMENT_STATE_PENDING, reason="No server has room.")
    )
    event.state_changed.service = "services/left"
    assert deployment_event_lines(event) == [
        "version 1 replica 2 PENDING, it was on left: No server has room."
    ]
