"""A roll-out from the terminal: begun, steered, followed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import deployment_samples as served
import pytest
from click.testing import CliRunner

from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.deployment.v1.deployment_service_pb2 import RollOutDeploymentRequest
from tunefleet.deployment.v1.rollout_pb2 import DeploymentEvent, RolloutState, StickyKey
from tunefleet_cli.main import cli
from tunefleet_cli.output.rollouts import deployment_event_lines, show_rollout
from tunefleet_client.testing import FakeCoordinator

_BEGIN = ("deploy", "better", "--name", "tickets", "--canary", "5,25%")


async def run(*arguments: str) -> tuple[int, str, str]:
    ended = await asyncio.to_thread(CliRunner().invoke, cli, list(arguments))
    return ended.exit_code, ended.stdout, ended.stderr


@pytest.fixture(autouse=True)
def _state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNEFLEET_STATE", str(tmp_path / "state"))


async def test_deploy_with_a_canary_begins_a_roll_out(fleet: FakeCoordinator) -> None:
    options = ("--bake", "10m", "--sticky", "session", "--min-requests", "5", "--min-score", "f1=0.8")
    code, stdout, stderr = await run(*_BEGIN, *options, "--evaluate", "scores", "--max-latency-ratio", "1.5")
    assert (code, stdout) == (0, "tickets\n")
    assert "Version 2 of tickets has 5 %." in stderr
    assert "tunefleet deployments watch tickets" in stderr
    (asked,) = (item for item in fleet.requests if isinstance(item, RollOutDeploymentRequest))
    policy = asked.policy
    assert (list(policy.steps), policy.bake.seconds) == ([5, 25], 600)
    assert (policy.sticky, policy.min_requests) == (StickyKey.STICKY_KEY_SESSION, 5)
    assert (policy.evaluate_job, dict(policy.min_scores)) == ("projects/default/jobs/scores", {"f1": 0.8})
    assert policy.max_latency_ratio == 1.5
    assert not policy.HasField("max_error_rate")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("deploy", "better", "--bake", "10m"), "--canary"),
        (("deploy", "better", "--canary", "5,25"), "--name NAME"),
        (("deploy", "better", "--name", "tickets", "--canary", "few"), "5,25,100"),
        (
            ("deploy", "better", "--name", "tickets", "--canary", "5", "--min-score", "f1=much"),
            "exact_match=0.8",
        ),
        (("deploy", "better", "--name", "tickets", "--canary", "5", "--bake", "soon"), "30m"),
    ],
)
async def test_options_that_mean_nothing_are_usage_errors(
    fleet: FakeCoordinator, arguments: tuple[str, ...], words: str
) -> None:
    code, _, stderr = await run(*arguments)
    assert code == 2
    assert words in stderr


async def test_a_roll_out_is_shown_promoted_rolled_back_and_followed(fleet: FakeCoordinator) -> None:
    code, _, stderr = await run("deployments", "rollout", "tickets")
    assert code == 0
    assert "--canary 5,25,100" in stderr, "there is none yet: it says how to begin one"
    assert (await run(*_BEGIN))[0] == 0
    code, stdout, _ = await run("deployments", "rollout", "tickets", "--json")
    assert json.loads(stdout)["data"]["candidate"]["weight"] == 5
    code, _, stderr = await run("deployments", "promote", "tickets")
    assert "Version 2 of tickets has 25 % of the traffic." in stderr
    code, _, stderr = await run("deployments", "rollback", "tickets", "--reason", "It was worse.")
    assert "Version 1 of tickets has all of the traffic again." in stderr
    code, stdout, stderr = await run("deployments", "watch", "tickets")
    assert code == 0
    assert stdout.splitlines() == [
        "version 2 roll-out of models/better: 5 %, 25 %",
        "version 2 step 1, 5 % of the traffic: It is loaded.",
        "version 2 ROLLED_BACK: It was worse.",
    ]
    code, _, stderr = await run("deployments", "rollback", "tickets")
    assert code == 1
    assert "STATE_CONFLICT" in stderr


def test_every_event_of_a_deployment_has_a_line() -> None:
    lines = [line for event in served.deployment_events() for line in deployment_event_lines(event)]
    assert lines == [
        "version 2 roll-out of models/tickets-v2: 5 %, 100 %",
        "version 2 READY",
        "version 2 step 1, 5 % of the traffic: The candidate is loaded and checked.",
        "version 2 evaluation PASSED: Job 'scores-of-v2' succeeded.",
        "version 2 from 1 to 3 replicas",
        "version 2 ROLLED_BACK: 2 of 20 requests failed (10.0%).",
    ]
    told = {event.WhichOneof("payload") for event in served.deployment_events()}
    assert told == {field.name for field in DeploymentEvent.DESCRIPTOR.oneofs_by_name["payload"].fields}


def test_a_candidate_that_lacks_replicas_says_what_it_waits_for(printed) -> None:
    rollout = served.rollout()
    rollout.state = RolloutState.ROLLOUT_STATE_LOADING
    rollout.candidate.state = DeploymentState.DEPLOYMENT_STATE_DEGRADED
    files = printed(width=300)
    show_rollout(files.output, "tickets", rollout)
    assert "every replica of the candidate is ready" in files.stdout.getvalue()
    assert "tunefleet deployments scale tickets N" in files.stdout.getvalue()
    rollout.state = RolloutState.ROLLOUT_STATE_BAKING
    files = printed(width=300)
    show_rollout(files.output, "tickets", rollout)
    assert "every replica" not in files.stdout.getvalue(), "later it may lose some and go on"


def test_a_transfer_says_what_goes_on_once_all_bytes_are_there(printed) -> None:
    files = printed(width=100)
    with files.output.transfer("Sending rows", then="Its rows are read there") as told:
        told(10, 100)
        sent = len(files.stderr.getvalue())
        told(100, 100)
    assert "Its rows are read there" in files.stderr.getvalue()[sent:]
