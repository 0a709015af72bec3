"""What was acknowledged survives SIGKILL; a full disk keeps nothing half-written."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tunefleet_coordinator.store import Store
from tunefleet_core.errors import Reason
from tunefleet_core.lifecycle import JobRow
from tunefleet_core.testing import samples

_COMMITTER = Path(__file__).with_name("commit_forever.py")


def _check_whole(store: Store, acknowledged: set[str]) -> None:
    jobs = [row for row in store.load().rows if isinstance(row, JobRow)]
    assert acknowledged <= {job.job_id for job in jobs}, "an acknowledged job is missing"
    for job in jobs:
        assert store.get_spec(job.uid) is not None
        assert store.get_request(samples.request(job.job_id).key) is not None
        sequences = [event.sequence for event in store.read_events(job.uid, 0)]
        assert sequences == list(range(1, job.last_sequence + 1))


def test_every_acknowledged_commit_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    acknowledged: set[str] = set()
    chance = random.Random(7)
    for run in range(4):
        command = [sys.executable, str(_COMMITTER), str(path), f"run{run}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(chance.uniform(0.0, 0.4))
            process.send_signal(signal.SIGKILL)
            # A line cut by the kill is not an acknowledgement.
            lines = [line for line in [first, *process.stdout] if line.endswith("\n")]
        acknowledged.update(name for line in lines for name in line.split())
        store = Store.open(path)
        _check_whole(store, acknowledged)
        store.close()
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
    assert len(acknowledged) > 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)], capture_output=True, text=True
    )
    if made.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {made.stderr.strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_fails_the_whole_batch_and_leaves_the_file_intact(
    small_disk: Path, desk_type: type[Any]
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * 1_000_000)
    store = Store.open(small_disk / "store.db")
    try:
        desk = desk_type(store)
        acknowledged: set[str] = set()
        for number in range(1000):
            names = [f"{number}-{index}" for index in range(10)]
            batch = [desk.prepare(samples.submit(0, name, request_id=name)) for name in names]
            results = store.commit(batch)
            if results != [None] * 10:
                break
            desk.world.settle()
            acknowledged.update(names)
        else:
            pytest.fail("the disk was never full")

        assert [result.reason if result else None for result in results] == [Reason.DISK_FULL] * 10
        assert acknowledged
        assert {row.job_id for row in store.load().rows if isinstance(row, JobRow)} == acknowledged
        _check_whole(store, acknowledged)

        ballast.unlink()
        assert store.commit(batch) == [None] * 10, "it goes on once there is space"
        _check_whole(store, acknowledged | set(names))
    finally:
        store.close()
    again = Store.open(small_disk / "store.db")
    _check_whole(again, acknowledged)
    again.close()


@pytest.fixture
def desk_type(desk: Any) -> type[Any]:
    return type(desk)
