"""The whole tree: every command has help, every list has --json, the page of the docs is fresh."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from cli_process import run

from tunefleet.catalog.v1 import catalog_service_pb2_grpc as catalog
from tunefleet.dataset.v1 import dataset_service_pb2_grpc as dataset
from tunefleet.deployment.v1 import deployment_service_pb2_grpc as deployment
from tunefleet.fleet.v1 import fleet_service_pb2_grpc as fleet_grpc
from tunefleet.job.v1 import job_service_pb2_grpc as job
from tunefleet.model.v1 import model_service_pb2_grpc as model
from tunefleet_cli.main import cli
from tunefleet_cli.reference import reference
from tunefleet_cli.tree import NOUNS
from tunefleet_client.testing import FakeCoordinator

PAGE = Path(__file__).parents[3] / "docs" / "cli.md"
SERVICES = {
    "jobs": job.JobServiceServicer,
    "datasets": dataset.DatasetServiceServicer,
    "models": model.ModelServiceServicer,
    "deployments": deployment.DeploymentServiceServicer,
    "catalog": catalog.CatalogServiceServicer,
}
OTHERWISE_NAMED = {
    "GetRollout": "rollout",
    "ListCheckpoints": "checkpoints",
    "CheckRows": "check",
    "ListPlugins": "list of plugins",
    "ListBackends": "backends",
    "ListFamilies": "families",
    "ListCombinations": "matrix",
    "ListFormats": "formats",
}


def commands(group: click.Group = cli, path: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group, info_name=path or "tunefleet")
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, f"{path}{name}"
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


COMMANDS = dict(commands())


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_help_json_and_named_options(path: str) -> None:
    command = COMMANDS[path]
    assert command.get_short_help_str(200).endswith("."), "one sentence says what it does"
    options = [item for item in command.params if isinstance(item, click.Option)]
    assert {"--json", "--plain", "--quiet"} <= {name for item in options for name in item.opts}
    for option in options:
        assert option.help or isinstance(option.type, click.Choice), f"{option.opts} says nothing"


@pytest.mark.parametrize("noun", SERVICES)
def test_every_call_of_the_api_has_a_verb(noun: str) -> None:
    verbs = set(NOUNS[noun].verbs) | {"list of plugins"}
    for name, _ in inspect.getmembers(SERVICES[noun], inspect.isfunction):
        verb = OTHERWISE_NAMED.get(name, "")
        for word in ("Job", "Dataset", "Model", "Deployment"):
            verb = verb or name.removesuffix(f"{word}s").removesuffix(word).lower()
            verb = "" if verb == name.lower() else verb
        assert verb in verbs, f"{name} has no verb under {noun}"


def test_what_people_may_ask_a_fleet_has_a_verb() -> None:
    calls = {name for name, _ in inspect.getmembers(fleet_grpc.FleetServiceServicer, inspect.isfunction)}
    spoken_by_services = {"Attach", "ReportEvents", "ReportInspection", "Join", "RenewCertificate"}
    verbs = [path for path in COMMANDS if path.startswith(("fleet ", "tokens "))]
    assert len(calls - spoken_by_services) == len(verbs) - 1  # `fleet top` asks several


async def test_every_list_is_one_document_with_its_list_in_it_even_when_empty(
    fleet: FakeCoordinator,
) -> None:
    for kind in (fleet.jobs, fleet.models, fleet.deployments, fleet.services, fleet.plugins):
        kind.clear()
    for path in COMMANDS:
        if path == "recipes list":
            continue  # they come with tunefleet, not from a fleet
        if path.endswith(" list") or path.startswith("catalog "):
            ended = await run(*path.split(), "--json")
            assert ended.code == 0, f"{path}: {ended.stderr}"
            document = json.loads(ended.stdout)
            assert list(document) == ["schema", "kind", "data"]
            assert [value for value in document["data"].values() if value == []], f"{path}: {document}"


def test_the_page_of_the_docs_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "python -m tunefleet_cli.reference"


async def test_habits_of_other_tools_are_understood(fleet: FakeCoordinator) -> None:
    by_habit = await run("jobs", "show", "tickets-to-json-9c3e", "--json")
    assert (by_habit.code, by_habit.stdout) == (
        0,
        (await run("jobs", "get", "tickets-to-json-9c3e", "--json")).stdout,
    )
    assert "show" not in (await run("jobs", "--help")).stdout.split()


def completed(*words: str) -> list[str]:
    """Return what the shell would offer; fails if that takes as long as a call's own deadline."""
    environment = {
        **os.environ,
        "_TUNEFLEET_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("tunefleet", *words)),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tunefleet_cli"], env=environment, capture_output=True, text=True, timeout=20
    )
    assert "Traceback" not in done.stderr, done.stderr
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


async def test_the_shell_completes_nouns_verbs_and_names(fleet: FakeCoordinator) -> None:
    assert "deployments" in await asyncio.to_thread(completed, "dep")
    assert set(await asyncio.to_thread(completed, "jobs", "re")) == {"resume", "retry"}
    found = await asyncio.to_thread(completed, "jobs", "get", "tickets")
    assert set(found) == {"tickets-to-json-ab12", "tickets-to-json-9c3e"}
    assert await asyncio.to_thread(completed, "chat", "tick") == ["tickets"]
    fleet.delay_seconds = 30
    assert await asyncio.to_thread(completed, "jobs", "get", "tickets") == [], (
        "a slow fleet holds up no shell"
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_the_completion_script_is_alone_on_stdout_and_says_where_it_goes(shell: str) -> None:
    ended = await run("completion", shell)
    assert ended.code == 0
    assert "_TUNEFLEET_COMPLETE" in ended.stdout
    assert f"tunefleet completion {shell} -q > ~/" in ended.stderr
    assert (await run("completion", shell, "-q")).stderr == ""
    if shell == "bash":
        check = subprocess.run(["bash", "-n"], input=ended.stdout, text=True, check=False)  # noqa: ASYNC221
        assert check.returncode == 0
