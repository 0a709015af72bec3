"""A small disk refuses new work in words, and a newer tunefleet's state folder is left as it is."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from chaos_fleet import echo_job
from data_fleet import DataFleet

from tunefleet.deployment.v1.deployment_pb2 import DeploymentSpec
from tunefleet_core.errors import Reason, TunefleetError

MIB = 1 << 20


@asynccontextmanager
async def _fleet_on_small_disk(size_bytes: int, least_free_bytes: int | None) -> AsyncIterator[DataFleet]:
    root = Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))
    fleet = DataFleet(root, least_free_bytes=least_free_bytes)
    fleet.state.mkdir()
    why_not = _mount(fleet.state, size_bytes)
    if why_not:
        shutil.rmtree(root)
        pytest.skip(f"a small file system cannot be mounted here: {why_not}")
    try:
        await fleet.start_coordinator()
        yield fleet
    finally:
        await fleet.close()
        _unmount(fleet.state)
        shutil.rmtree(root, ignore_errors=True)


def _mount(folder: Path, size_bytes: int) -> str:
    """Mount a tmpfs of a size; return why that is not allowed."""
    options = f"size={size_bytes},mode=0700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    return "" if mounted.returncode == 0 else mounted.stderr.strip() or "refused"


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _file(path: Path, size_bytes: int) -> Path:
    path.write_bytes(random.Random(1).randbytes(size_bytes))
    return path


async def test_below_the_watermark_new_work_is_refused_and_reading_goes_on(tmp_path: Path) -> None:
    async with _fleet_on_small_disk(64 * MIB, least_free_bytes=None) as fleet, fleet.client() as client:
        await client.fleet.info()
        file = _file(tmp_path / "rows", 10)
        refused = (
            client.jobs.create(echo_job()),
            client.deployments.create(DeploymentSpec(model="nothing")),
            client.datasets.create("tickets", file),
            client.transfers.upload(file),
        )
        for call in refused:
            with pytest.raises(TunefleetError) as raised:
                await call
            error = raised.value
            assert (error.reason, error.code) == (Reason.DISK_FULL, "RESOURCE_EXHAUSTED")
            assert str(fleet.state) in error.message
            assert error.metadata["free_bytes"] in error.message
            assert "tunefleet prune" in error.hint
        assert await client.jobs.list() == ()
        assert (await client.artifacts.prune()).items == []


async def test_an_upload_that_fills_the_disk_leaves_nothing(tmp_path: Path) -> None:
    async with _fleet_on_small_disk(20 * MIB, least_free_bytes=0) as fleet, fleet.client() as client:
        ballast = fleet.state / "ballast"

        def fill(done: int, _: int) -> None:
            if done and not ballast.exists():
                ballast.write_bytes(b"x" * (14 * MIB))

        with pytest.raises(TunefleetError) as raised:
            await client.transfers.upload(_file(tmp_path / "big", 8 * MIB), progress=fill)
        assert raised.value.reason is Reason.DISK_FULL
        artifacts = fleet.state / "artifacts"
        assert [path.name for path in artifacts.rglob("*") if path.is_file()] in ([], ["prune.lock"])
        ballast.unlink()
        assert await client.transfers.upload(tmp_path / "big"), "with room again it goes through"


@pytest.mark.slow
async def test_a_state_folder_of_a_newer_version_is_left_as_it_is(fleet: DataFleet) -> None:
    for name in ("blobs", "coordinator"):
        await fleet.stop(name)
    noted = json.loads((fleet.state / "state.json").read_text())
    assert noted["tunefleet"]
    (fleet.state / "state.json").write_text(json.dumps({"schema": "9999", "tunefleet": "9.9.9"}))
    before = _content(fleet.state)
    for name, module in (("coordinator", "tunefleet_coordinator"), ("blobs", "tunefleet_coordinator.blobs")):
        process = await fleet.spawn(name, "-m", module, "--state", str(fleet.state))
        async with asyncio.timeout(60):
            assert await process.wait() == 1
        last = json.loads(fleet.log(name).splitlines()[-1])["message"]
        assert "was written by tunefleet 9.9.9 (schema 9999); this is tunefleet" in last
    assert _content(fleet.state) == before


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
