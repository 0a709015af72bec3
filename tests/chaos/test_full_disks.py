"""Real full disks, on a small file system of their own: a clear error, and nothing half-done."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from chaos_fleet import ChaosFleet, assert_whole, echo_job

from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_client import Client
from tunefleet_core.errors import Reason, TunefleetError, error_from_status

pytestmark = [pytest.mark.chaos]

_MEBIBYTE = 1 << 20


@contextmanager
def _small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a tmpfs of a size; skips the test where that is not allowed."""
    folder.mkdir(parents=True)
    options = f"size={size_bytes},mode=0700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(folder: Path) -> Path:
    """Take every byte that is left; return the file that holds them."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    stream.write(b"\0" * size)
            except OSError:
                continue
    return ballast


@pytest.fixture
def small_disk(root: Path) -> Iterator[Path]:
    with _small_disk(root / "small", 4 * _MEBIBYTE) as folder:
        yield folder


@pytest.fixture
async def fleet_on_small_disk(root: Path) -> AsyncIterator[ChaosFleet]:
    """A fleet whose whole state folder is on a small disk."""
    with _small_disk(root / "state", 12 * _MEBIBYTE):
        # Without a reserve: these tests are about a disk that is full to the last byte.
        fleet = ChaosFleet(root, coordinator_options=("--least-free-bytes", "0"))
        try:
            await fleet.start_coordinator()
            await fleet.start_trainer()
            yield fleet
        finally:
            await fleet.close()


async def test_run_that_fills_its_disk_says_so_and_keeps_its_checkpoint(
    small_disk: Path, bare_fleet: ChaosFleet, root: Path
) -> None:
    fleet = bare_fleet
    await fleet.start_coordinator()
    await fleet.start_trainer("trainer", "--work", str(small_disk / "work"))
    async with fleet.client() as client:
        # One checkpoint of this size fits, a second one beside it does not.
        spec = echo_job(steps=30, every_steps=5, checkpoint_bytes=5 * _MEBIBYTE // 2, max_attempts=2)
        job = await client.jobs.create(spec)
        ended, events = await fleet.finish(client, job.name)
        checkpoints = await client.jobs.checkpoints(job.name)
        assert ended.state == JobState.JOB_STATE_FAILED
        assert_whole(events)
        _assert_says_where(ended.error, small_disk)
        assert [item.step for item in checkpoints] == [5]
        await fleet.materialise(checkpoints[0].manifest_digest, root / "again")
        assert (root / "again" / "ballast.bin").stat().st_size == 5 * _MEBIBYTE // 2
        await fleet.until(lambda: not list(small_disk.glob("work/runs/*")), "the runs' folders are removed")
        assert list(root.glob("**/*.partial*")) == []
        # With space again, the same trainer works on.
        after = await client.jobs.create(echo_job())
        later, later_events = await fleet.finish(client, after.name)
    await fleet.assert_succeeded(later, later_events)


@pytest.mark.slow  # another disk than the run's
async def test_full_artifact_store_fails_the_run_and_keeps_what_was_committed(
    fleet_on_small_disk: ChaosFleet, root: Path
) -> None:
    fleet = fleet_on_small_disk
    await fleet.stop("trainer")
    await fleet.start_trainer("trainer", "--work", str(root / "work"))  # on the large disk
    async with fleet.client() as client:
        spec = echo_job(steps=40, every_steps=5, checkpoint_bytes=4 * _MEBIBYTE, max_attempts=1)
        job = await client.jobs.create(spec)
        await fleet.until(lambda: "DISK_FULL" in fleet.log("trainer") or _ended(fleet), "the store is full")
        ended, events = await fleet.finish(client, job.name)
        checkpoints = await client.jobs.checkpoints(job.name)
    assert ended.state == JobState.JOB_STATE_FAILED
    assert_whole(events)
    _assert_says_where(ended.error, fleet.state)
    assert checkpoints
    for checkpoint in checkpoints:
        await fleet.materialise(checkpoint.manifest_digest, root / f"again-{checkpoint.step}")
    assert list(fleet.state.glob("**/*.partial*")) == []


async def test_full_coordinator_refuses_a_create_and_works_again_with_space(
    fleet_on_small_disk: ChaosFleet,
) -> None:
    fleet = fleet_on_small_disk
    async with fleet.client() as client:
        first = await client.jobs.create(echo_job())
        await fleet.finish(client, first.name)
        ballast = _fill(fleet.state)
        with pytest.raises(TunefleetError) as raised:
            await _create_until_refused(client)
        assert raised.value.reason is Reason.DISK_FULL
        assert raised.value.code == "RESOURCE_EXHAUSTED"
        assert str(fleet.state) in raised.value.message
        assert raised.value.hint
        before = {job.uid for job in await client.jobs.list()}
        ballast.unlink()
        job = await client.jobs.create(echo_job(seed=3))
        ended, events = await fleet.finish(client, job.name)
        await fleet.assert_succeeded(ended, events)
        # Nothing of the refused create was kept, and everything that was taken is carried out.
        assert {item.uid for item in await client.jobs.list()} == before | {job.uid}
        for uid in before:
            name = next(item.name for item in await client.jobs.list() if item.uid == uid)
            assert_whole((await fleet.finish(client, name))[1])


@pytest.mark.slow  # another disk than the run's
async def test_run_outlasts_a_coordinator_whose_disk_is_full(
    fleet_on_small_disk: ChaosFleet, root: Path
) -> None:
    fleet = fleet_on_small_disk
    await fleet.stop("trainer")
    await fleet.start_trainer("trainer", "--work", str(root / "work"))  # on the large disk
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=40, every_steps=10, seed=4, step_seconds=0.03))
        run = await fleet.run_begun(job)
        ballast = _fill(fleet.state)
        await fleet.until(lambda: "rank" not in run.pids(), "the run has ended on its own")
        await asyncio.sleep(1.5 * fleet.lease_seconds)
        ballast.unlink()
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)
    assert ended.attempt == 1


async def _create_until_refused(client: Client) -> None:
    for _ in range(50):  # the log of the store may have a few pages to spare
        await client.jobs.create(echo_job())


def _ended(fleet: ChaosFleet) -> bool:
    return "ended: ATTEMPT_OUTCOME" in fleet.log("trainer")


def _assert_says_where(status: object, folder: Path) -> None:
    error = error_from_status(status)  # pyright: ignore[reportArgumentType]
    assert error.reason is Reason.DISK_FULL, error
    assert str(folder) in error.message
    assert os.path.commonpath([error.metadata["path"], folder]) == str(folder)
    assert "space" in error.hint
