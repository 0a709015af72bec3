"""What a trainer keeps on its disk, and what it clears away."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from chaos_fleet import ChaosFleet, echo_job

from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.worker.hosted_run import saved_checkpoints

_KEEP = 2


async def test_committed_checkpoints_beyond_keep_leave_the_disk_and_stay_in_the_store(
    fleet: ChaosFleet,
) -> None:
    spec = echo_job(steps=12, every_steps=1, step_seconds=0.15)
    spec.train.checkpoint.keep = _KEEP
    most = 0
    async with fleet.client() as client:
        job = await client.jobs.create(spec)
        run = await fleet.run_begun(job)
        while (await client.jobs.get(job.name)).progress.step < 11:
            most = max(most, len(saved_checkpoints(run.folder)))
        ended, events = await fleet.finish(client, job.name)
        checkpoints = await client.jobs.checkpoints(job.name)
    await fleet.assert_succeeded(ended, events)
    # One more may be there that is being written or not committed yet.
    assert _KEEP <= most <= _KEEP + 2
    assert [item.step for item in checkpoints] == list(range(11, 0, -1))
    for item in checkpoints:
        await fleet.materialise(item.manifest_digest, fleet.root / f"again-{item.step}")


async def test_run_folder_is_removed_once_the_coordinator_has_the_end(fleet: ChaosFleet) -> None:
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job())
        ended, _ = await fleet.finish(client, job.name)
    assert ended.state == JobState.JOB_STATE_SUCCEEDED
    await fleet.until(lambda: not list(fleet.state.glob("services/trainer/runs/*")), "its folder is gone")


async def test_trainer_clears_what_an_earlier_life_left_half_made(fleet: ChaosFleet) -> None:
    await fleet.kill("trainer")
    half_made = fleet.state / "services" / "trainer" / "runs" / "0000-1"
    (half_made / "resume").mkdir(parents=True)
    stale = _dead_socket(fleet)
    listening = _listening_socket(fleet)
    with listening:
        await fleet.start_trainer()
        assert not half_made.exists()
        assert not stale.exists()
        assert os.path.exists(listening.getsockname())


async def test_waiting_host_whose_trainer_was_killed_ends_at_once(fleet: ChaosFleet) -> None:
    """It holds nothing that could be adopted, so it does not wait for a lease to pass."""
    await fleet.until(lambda: _waiting_hosts(fleet), "a host waits for work")
    await fleet.kill("trainer")
    seconds = await fleet.until(lambda: not _waiting_hosts(fleet), "the host has ended")
    assert seconds < fleet.lease_seconds


async def test_trainer_stopped_past_its_lease_serves_again_without_its_old_host(fleet: ChaosFleet) -> None:
    await fleet.until(lambda: _waiting_hosts(fleet), "a host waits for work")
    os.kill(fleet.pid("trainer"), signal.SIGSTOP)
    await fleet.until(lambda: not _waiting_hosts(fleet), "the host has ended, for nobody called it")
    os.kill(fleet.pid("trainer"), signal.SIGCONT)
    await fleet.until(lambda: _waiting_hosts(fleet), "another host waits for work")
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job())
        ended, events = await fleet.finish(client, job.name)
    await fleet.assert_succeeded(ended, events)


def _waiting_hosts(fleet: ChaosFleet) -> list[int]:
    return [pid for pid, line in fleet.processes() if "tunefleet_core.worker.host" in line]


def _dead_socket(fleet: ChaosFleet) -> Path:
    """Leave a socket that nobody listens on, as a killed host does."""
    path = _socket_folder(fleet) / "dead.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    return path


def _listening_socket(fleet: ChaosFleet) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(_socket_folder(fleet) / "live.sock"))
    listening.listen()
    return listening


def _socket_folder(fleet: ChaosFleet) -> Path:
    return next((fleet.root / "tmp").glob("tunefleet-*"))
