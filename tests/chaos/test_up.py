"""`tunefleet up`: one per state folder, and whatever ends it, nothing of it stays behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from chaos_fleet import TEST_MARKER, ChaosFleet, assert_whole, echo_job, slack

from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_client import connect
from tunefleet_client.calls import Backoff
from tunefleet_core.worker.marker import marked_processes

pytestmark = [pytest.mark.chaos]

# The command line has no lease option on purpose; tests do not want to wait for the default term.
_UP = """
import sys
from pathlib import Path
from tunefleet_services.local import UpOptions, run_up
from tunefleet_core.errors import TunefleetError
try:
    stop_seconds = float(sys.argv[3]) if sys.argv[3:] else 60.0
    options = UpOptions(
        state_folder=Path(sys.argv[1]), port=int(sys.argv[2]), lease_seconds=2.0, stop_seconds=stop_seconds
    )
    run_up(options)
except TunefleetError as error:
    sys.exit(f"{error.message} {error.hint}")
"""


@pytest.fixture
async def up(bare_fleet: ChaosFleet) -> AsyncIterator[ChaosFleet]:
    """A fleet that `up` has started; `bare_fleet` only lends its mark and its proof at the end."""
    await bare_fleet.spawn("up", "-u", "-c", _UP, str(bare_fleet.state), "0")
    await bare_fleet.until(lambda: "Fleet ready" in bare_fleet.log("up"), "the fleet is ready")
    yield bare_fleet
    await bare_fleet.stop("up")


async def test_second_up_on_a_state_folder_refuses_and_says_who_holds_it(up: ChaosFleet) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tunefleet_cli",
        "up",
        "--state",
        str(up.state),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=up.environment,
    )
    async with asyncio.timeout(60):
        _, stderr = await process.communicate()
    said = stderr.decode()
    assert process.returncode == 1
    assert "STATE_FOLDER_HELD" in said
    assert str(up.pid("up")) in said
    assert socket.gethostname() in said
    assert f"kill {up.pid('up')}" in said
    async with connect(state_folder=up.state) as client:  # the first one noticed nothing
        assert len(await client.fleet.list()) == 3


@pytest.mark.slow  # `up` shows it
async def test_coordinator_of_a_held_folder_refuses_too(fleet: ChaosFleet) -> None:
    other = await fleet.spawn("other", "-m", "tunefleet_coordinator", "--state", str(fleet.state))
    async with asyncio.timeout(60):
        assert await other.wait() == 1
    assert str(fleet.pid("coordinator")) in fleet.log("other")


async def test_up_stops_on_term_with_a_run_and_leaves_no_process(up: ChaosFleet) -> None:
    async with connect(state_folder=up.state) as client:
        job = await client.jobs.create(echo_job(steps=10_000, stubborn=True))
        run = await up.run_begun(job)
        await up.until(lambda: len(run.pids()) >= 3, "host, rank and its stubborn child live")
    assert await up.stop("up") == 0
    assert marked_processes(up.mark, variable=TEST_MARKER) == []
    assert "Stopped." in up.log("up")
    assert list((up.root / "tmp").glob("tunefleet-*/*.sock")) == []


async def test_ctrl_c_saves_what_runs_and_the_next_up_goes_on_from_there(up: ChaosFleet) -> None:
    async with connect(state_folder=up.state) as client:
        # No checkpoint but the one of the stop, and no attempt that may fail.
        spec = echo_job(steps=60, every_steps=1000, seed=8, step_seconds=0.05, max_attempts=1)
        job = await client.jobs.create(spec)
        async with up.watching(client, job.name) as timeline:
            await timeline.wait_for(lambda event: event.metrics.step > 5)
    assert await up.stop("up", signal.SIGINT) == 0
    assert marked_processes(up.mark, variable=TEST_MARKER) == []
    said = up.log("up")
    name = job.name.rpartition("/")[2]
    assert f"1 job runs ({name}): saving its state, for up to 60 s. Ctrl-C again stops at once." in said
    (saved,) = re.findall(rf"Saved: {name} at step (\d+)\.", said)
    await _next_up(up)
    async with connect(state_folder=up.state) as client:
        ended, events = await up.finish(client, job.name)
    up.user_address = json.loads((up.state / "endpoints.json").read_text())["user"]
    await up.assert_succeeded(ended, events)
    assert [event.metrics.step for event in events if event.HasField("metrics")] == list(range(1, 61))
    starts = [event.attempt_started for event in events if event.HasField("attempt_started")]
    assert [item.resume_from.step for item in starts] == [0, int(saved)]


@pytest.mark.slow  # a trainer's second signal shows it
async def test_a_second_ctrl_c_stops_at_once_and_counts_no_failure(up: ChaosFleet) -> None:
    async with connect(state_folder=up.state) as client:
        spec = echo_job(steps=60, every_steps=8, step_seconds=0.05, save_seconds=0.2, max_attempts=1)
        spec.backend_options.update({"stubborn": True})
        job = await client.jobs.create(spec)
        async with up.watching(client, job.name) as timeline:
            await timeline.wait_for(lambda event: event.HasField("checkpoint_committed"))
            run = up.run_of(job)
            assert run is not None
            os.kill(run.pids()["rank"], signal.SIGSTOP)  # it would save for ever
    os.kill(up.pid("up"), signal.SIGINT)
    await up.until(lambda: "1 job runs" in up.log("up"), "the first was taken")
    assert await up.stop("up", signal.SIGINT) == 0
    assert "Stopping at once." in up.log("up")
    assert marked_processes(up.mark, variable=TEST_MARKER) == []
    await _next_up(up)
    async with connect(state_folder=up.state) as client:
        ended, events = await up.finish(client, job.name)
    assert ended.state == JobState.JOB_STATE_SUCCEEDED, ended
    assert_whole(events)
    assert ended.attempt == 2


@pytest.mark.slow  # starts all of `up` once more
async def test_a_run_that_hangs_holds_up_for_no_longer_than_its_bound(bare_fleet: ChaosFleet) -> None:
    up = bare_fleet
    await up.spawn("up", "-u", "-c", _UP, str(up.state), "0", "1")
    await up.until(lambda: "Fleet ready" in up.log("up"), "the fleet is ready")
    async with connect(state_folder=up.state) as client:
        job = await client.jobs.create(echo_job(steps=1000, every_steps=10, step_seconds=0.02))
        async with up.watching(client, job.name) as timeline:
            await timeline.wait_for(lambda event: event.HasField("checkpoint_committed"))
            run = up.run_of(job)
            assert run is not None
            os.kill(run.pids()["rank"], signal.SIGSTOP)
    assert await up.stop("up") == 0
    assert f"Not saved: {job.name.rpartition('/')[2]} goes on from step " in up.log("up")
    assert marked_processes(up.mark, variable=TEST_MARKER) == []


@pytest.mark.slow  # starts all of `up` once more
async def test_children_of_a_killed_up_end_by_themselves(up: ChaosFleet) -> None:
    async with connect(state_folder=up.state) as client:
        job = await client.jobs.create(echo_job(steps=10_000))
        await up.run_begun(job)
    await up.kill("up")
    # The run waits one lease term to be adopted by the next `up`, then saves and ends.
    await up.until(
        lambda: not marked_processes(up.mark, variable=TEST_MARKER),
        "every child has ended",
        2.0 + 10.0 * slack(),
    )


@pytest.mark.slow  # starts all of `up` twice more
async def test_next_up_adopts_the_run_of_a_killed_one(up: ChaosFleet) -> None:
    async with connect(state_folder=up.state) as client:
        job = await client.jobs.create(echo_job(steps=20, every_steps=4, seed=8, step_seconds=0.1))
        await up.run_begun(job)
    await up.kill("up")
    await up.spawn("up", "-u", "-c", _UP, str(up.state), "0")
    async with connect(state_folder=up.state) as client:
        await up.until(lambda: up.log("up").count("Fleet ready") == 2, "the fleet is ready again")
        ended, events = await up.finish(client, job.name)
        assert ended.attempt <= 2  # a lease of two seconds may pass while four processes start
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))


@pytest.mark.parametrize(
    "child",
    [
        "coordinator",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("trainer", "server", "gateway")),
    ],
)
async def test_killed_child_is_started_again(up: ChaosFleet, child: str) -> None:
    pid = _child(up, child)
    os.kill(pid, signal.SIGKILL)
    await up.until(lambda: _child(up, child) not in (0, pid), "it runs again")
    async with connect(state_folder=up.state, backoff=Backoff(tries=20)) as client:
        job = await client.jobs.create(echo_job())
        ended, _ = await up.finish(client, job.name)
    assert ended.result.model


@pytest.mark.slow  # starts all of `up` once more
async def test_up_that_cannot_start_says_why_and_ends(bare_fleet: ChaosFleet) -> None:
    bare_fleet.state.mkdir(parents=True, exist_ok=True)
    (bare_fleet.state / "coordinator.db").write_bytes(b"no database" * 1000)
    process = await bare_fleet.spawn("up", "-u", "-c", _UP, str(bare_fleet.state), "0")
    async with asyncio.timeout(60):
        assert await process.wait() != 0
    said = bare_fleet.log("up")
    assert "The coordinator cannot be started: " in said
    assert str(bare_fleet.state / "logs" / "coordinator.log") in said
    assert "Fleet ready" not in said
    await bare_fleet.until(
        lambda: not marked_processes(bare_fleet.mark, variable=TEST_MARKER), "nothing is left", 10
    )


async def _next_up(up: ChaosFleet) -> None:
    await up.spawn("up", "-u", "-c", _UP, str(up.state), "0")
    await up.until(lambda: up.log("up").count("Fleet ready") == 2, "the fleet is ready again")


def _child(up: ChaosFleet, name: str) -> int:
    """Return the process id of a child of `up` by its role; 0 while it is down."""
    module = "tunefleet_coordinator" if name == "coordinator" else f"tunefleet_services.{name}"
    for process in psutil.Process(up.pid("up")).children():
        try:
            if module in process.cmdline():
                return process.pid
        except psutil.Error:
            continue
    return 0


def test_state_folder_of_the_lock_is_made_private(tmp_path: Path) -> None:
    from tunefleet_services.local.lock import hold_state_folder

    with hold_state_folder(tmp_path / "state"):
        assert (tmp_path / "state").stat().st_mode & 0o077 == 0
