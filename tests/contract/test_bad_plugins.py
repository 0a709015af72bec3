"""Plugins that raise, hang, print, leak or lie: each is named with its reason, and harms no other."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "chaos"))

from bad_plugins import BAD, install_bad_plugins
from chaos_fleet import ChaosFleet, echo_job

from tunefleet.fleet.v1.fleet_pb2 import InstalledBackend
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.environments import describe_environment, host_environment
from tunefleet_core.plugins import PluginStatus, find_backend, load_plugins


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of distributions that this process and its children see."""
    monkeypatch.delenv("TUNEFLEET_PLUGINS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    before = set(sys.modules)
    yield tmp_path / "site"
    for name in set(sys.modules) - before:
        if name.startswith("bad_"):
            del sys.modules[name]


def by_name(found: list[InstalledBackend]) -> dict[str, InstalledBackend]:
    return {item.manifest.name: item for item in found}


def sleepers() -> list[int]:
    """Return the processes that the leaking plugins start."""
    found = []
    for process in psutil.process_iter():
        try:
            if "import time; time.sleep(3600)" in process.cmdline():
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.mark.parametrize("name", sorted(set(BAD) - {"hangs"}))
async def test_a_bad_plugin_is_named_and_its_neighbour_works(name: str, site: Path) -> None:
    install_bad_plugins(site, name)
    found = by_name(await describe_environment(host_environment()))
    status, reason = BAD[name]
    assert (found[name].status, reason in found[name].error) == (status, True), found[name]
    assert found[name].hint
    assert found["echo"].status == "ACTIVE"
    assert sleepers() == []


@pytest.mark.slow  # waits for the time limit
async def test_a_plugin_that_hangs_is_named_and_its_neighbour_works(site: Path) -> None:
    install_bad_plugins(site, "hangs")
    found = by_name(await describe_environment(host_environment()))
    assert found["hangs"].status == "FAILED"
    assert BAD["hangs"][1] in found["hangs"].error
    assert found["echo"].status == "ACTIVE"


def test_a_hanging_plugin_costs_its_own_place_and_the_limit(site: Path) -> None:
    install_bad_plugins(site, "hangs")
    plugins = load_plugins("hangs,echo", limit_seconds=0.2)
    record = next(item for item in plugins.records if item.name == "hangs")
    assert record.status is PluginStatus.FAILED
    assert record.error == "Plugin 'hangs' of bad-hangs 1.0 did not return within 0 s."
    assert [item.name for item in plugins.backends()] == ["echo"]


def test_a_backend_is_found_without_loading_its_neighbours(site: Path) -> None:
    install_bad_plugins(site)  # one of them would hang, one would raise
    assert find_backend("echo").name == "echo"
    assert not [name for name in sys.modules if name.removeprefix("bad_") in BAD]


@pytest.fixture
async def bad_fleet(site: Path) -> AsyncIterator[ChaosFleet]:
    """A fleet in whose environment all of them are installed."""
    install_bad_plugins(site)
    root = Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))
    fleet = ChaosFleet(root, lease_seconds=10.0)
    try:
        await fleet.start_coordinator()
        await fleet.start_trainer()
        yield fleet
    finally:
        await fleet.close()
        shutil.rmtree(root, ignore_errors=True)


@pytest.mark.slow  # a fleet that waits for the time limits of what hangs
async def test_a_fleet_lists_each_with_its_reason_while_another_backend_works(bad_fleet: ChaosFleet) -> None:
    async with bad_fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=10), job_id="beside-bad-ones")
        listed = {plugin.name: plugin for plugin in await client.catalog.plugins()}
        done, events = await bad_fleet.finish(client, job.name)
    for name, (status, reason) in BAD.items():
        assert listed[name].status == status, listed[name]
        assert reason in listed[name].error
        assert listed[name].hint
    assert listed["echo"].status == "ACTIVE"
    assert done.state == JobState.JOB_STATE_SUCCEEDED
    await bad_fleet.assert_succeeded(done, events)
    shown = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tunefleet_cli", "plugins", "list", "--plain",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={
            **os.environ,
            "TUNEFLEET_STATE": str(bad_fleet.state),
            "TUNEFLEET_ADDRESS": bad_fleet.user_address,
            "TUNEFLEET_TOKEN": bad_fleet.token("admin"),
        },
    )  # fmt: skip
    text = (await shown.communicate())[0].decode()
    assert shown.returncode == 0, text
    assert all(name in text and reason[:30] in text for name, (_, reason) in BAD.items()), text
