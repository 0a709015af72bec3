"""What `plugins new` writes and what the tutorial shows: installs, works in a fleet, passes the kit."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import json_format

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "chaos"))

from chaos_fleet import ChaosFleet, echo_job
from examining import examine, test_name
from made_plugins import TUTORIAL, extract, installed_beside, scratch_environment

from tunefleet.deployment.v1.deployment_pb2 import Deployment, DeploymentSpec, DeploymentState
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_client import Client
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.plugins import find_backend
from tunefleet_core.plugins.starter import StarterKind, write_starter
from tunefleet_core.spec import parse_job_file
from tunefleet_core.testing.conformance.openai_http import chat_body, post
from tunefleet_core.testing.conformance.tiny_base import write_base

test_name.__test__ = False  # type: ignore[attr-defined]
_ON_ITS_WAY = (
    DeploymentState.DEPLOYMENT_STATE_PENDING,
    DeploymentState.DEPLOYMENT_STATE_STARTING,
)


@pytest.fixture
def root() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def made(name: str, folder: Path) -> Path:
    """Return the source tree of a plugin: `coin` of the tutorial, `clock` and `parrot` of the starter."""
    source = folder / name
    if name == "coin":
        extract(TUTORIAL, source)
    else:
        kind: StarterKind = "train" if name == "clock" else "serve"
        write_starter(name, source, kind)
    return source


@pytest.fixture
def source(request: pytest.FixtureRequest, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plugin that this process and its children find."""
    folder = made(request.param, root)
    site = installed_beside(folder, root / "site")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(folder), str(site))))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.parametrize(
    ("source", "suite", "only"),
    [
        ("clock", "TrainerConformance", "worker and (resumed or manifest or cancelled or option or again)"),
        ("parrot", "ServerConformance", "worker and (adapter or stream or manifest or refused or engine)"),
        ("coin", "TrainerConformance", "worker and (resumed or manifest or cancelled or option or again)"),
    ],
    indirect=["source"],
)
def test_a_made_plugin_keeps_its_promises(source: Path, suite: str, only: str, tmp_path: Path) -> None:
    report = examine(tmp_path, {"backend": source.name}, suite=suite, only=only)
    assert report.failed == {}
    assert len(report.passed) > 15


@pytest.mark.parametrize("source", ["coin"], indirect=True)
def test_the_tutorial_is_right_about_what_the_kit_notices(source: Path, tmp_path: Path) -> None:
    rank = source / "tunefleet_coin" / "rank.py"
    text = rank.read_text()
    line = "        self.source.setstate((state[0], tuple(state[1]), state[2]))\n"
    assert text.count(line) == 1
    rank.write_text(text.replace(line, ""))
    report = examine(tmp_path, {"backend": "coin"}, only="worker and (resumed or cancelled)")
    assert [test_name(name) for name in report.failed] == [
        "test_a_resumed_run_ends_as_one_that_was_not_stopped"
    ]
    assert len(report.passed) > 5


@pytest.mark.parametrize("source", ["clock", "coin"], indirect=True)
async def test_a_made_trainer_runs_a_job_of_a_real_fleet(source: Path, root: Path) -> None:
    fleet = ChaosFleet(root, lease_seconds=10.0)
    try:
        await fleet.start_coordinator()
        await fleet.start_trainer()
        async with fleet.client() as client:
            spec = echo_job(steps=10)
            spec.backend = source.name
            job = await client.jobs.create(spec, job_id="made")
            done, events = await fleet.finish(client, job.name)
    finally:
        await fleet.close()
    assert done.state == JobState.JOB_STATE_SUCCEEDED, done
    assert sum(event.HasField("metrics") for event in events) == 10


@pytest.mark.parametrize("source", ["parrot"], indirect=True)
async def test_a_made_server_takes_a_deployment_of_a_real_fleet(source: Path, root: Path) -> None:
    base = write_base(root / "base")
    fleet = ChaosFleet(root, lease_seconds=10.0)
    try:
        await fleet.start_coordinator()
        await fleet.spawn("server", *server_arguments(fleet))
        async with fleet.client() as client:
            spec = DeploymentSpec(model=str(base), engine=source.name)
            deployment = await create_when_served(client, spec)
            async with asyncio.timeout(60):
                while deployment.state in _ON_ITS_WAY:
                    await asyncio.sleep(0.1)
                    deployment = await client.deployments.get(deployment.name)
            assert deployment.state == DeploymentState.DEPLOYMENT_STATE_READY, deployment
            answer = await post(deployment.engine_address, chat_body(deployment.engine_model, "hello there"))
            await client.deployments.delete(deployment.name)
    finally:
        await fleet.close()
    assert answer.text() == "hello there"


def server_arguments(fleet: ChaosFleet) -> list[str]:
    """Return the command line of a server service of a fleet."""
    arguments = ["-m", "tunefleet_services.server", "--address", fleet.service_address]
    arguments += ["--token-file", str(fleet.state / "service.token"), "--state", str(fleet.state)]
    return [*arguments, "--name", "server", "--lease-seconds", "10"]


async def create_when_served(client: Client, spec: DeploymentSpec) -> Deployment:
    """Create a deployment as soon as a service has its engine."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await client.deployments.create(spec, deployment_id="made")
            except TunefleetError:
                await asyncio.sleep(0.2)


def test_the_tutorial_shows_a_job_file_that_is_one(tmp_path: Path) -> None:
    extract(TUTORIAL, tmp_path)
    spec = parse_job_file(tmp_path / "job.yaml")
    assert spec.backend == "coin"
    assert json_format.MessageToDict(spec.backend_options) == {"bias": 0.9}


def test_a_starter_overwrites_nothing_and_takes_no_bad_name(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(TunefleetError, match="is there already"):
        write_starter("clock", tmp_path, "train")
    for name in ("Clock", "1clock", "clock_", "../clock", "", "clock-"):
        with pytest.raises(TunefleetError) as caught:
            write_starter(name, tmp_path / "new", "train")
        assert caught.value.reason is Reason.FIELD_INVALID
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.slow  # an environment each, and the whole kit
@pytest.mark.parametrize("name", ["clock", "parrot", "coin"])
def test_a_made_plugin_installs_and_its_own_tests_pass(name: str, root: Path) -> None:
    source = made(name, root)
    python = scratch_environment(root / "venv")
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-e", str(source)]
    subprocess.run(install, check=True, timeout=150, capture_output=True)
    tests = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(tests, cwd=source, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize("source", ["parrot"], indirect=True)
def test_a_made_server_is_found_by_its_name(source: Path) -> None:
    assert find_backend("parrot").engine_entry == "tunefleet_parrot.engine:ParrotEngine"
