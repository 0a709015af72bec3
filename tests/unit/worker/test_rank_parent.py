"""Rank processes are forked from one parent: marked and shown as their own, owned by who asked."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from tunefleet_core.worker.forked_process import CannotForkError
from tunefleet_core.worker.marker import MARKER, marked_environment, marked_processes
from tunefleet_core.worker.rank_process import RankProcess
from tunefleet_core.worker.rank_request import UNFORKABLE, listen, parent_command

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="rank processes are forked on Linux only"),
    pytest.mark.timeout(60),
]
ECHO = "tunefleet_echo.rank:EchoRank"
LIMIT_SECONDS = 30.0
HOST = """
import asyncio, sys
from tunefleet_core.worker.rank_process import RankProcess

async def main():
    rank = await RankProcess.fork(sys.argv[1])
    await rank.next_report()
    print(rank.process.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""
THREADED = """
import threading
from tunefleet_echo.rank import EchoRank

class ThreadedRank(EchoRank):
    def warm(self):
        threading.Thread(target=threading.Event().wait, name="pool", daemon=True).start()
"""


@dataclass(slots=True, kw_only=True)
class Parent:
    """A parent and where it is asked."""

    process: subprocess.Popen[bytes]
    socket: str

    def leave(self) -> None:
        """Be its owner no more."""
        assert self.process.stdin is not None
        self.process.stdin.close()


def start_parent(folder: Path, entry: str = ECHO, **variables: str) -> Parent:
    path = Path("/tmp") / f"tf-parent-{uuid.uuid4().hex[:8]}"  # paths of unix sockets are short
    with listen(path) as listener:
        process = subprocess.Popen(
            parent_command(sys.executable, entry, listener.fileno()),
            stdin=subprocess.PIPE,
            env={**marked_environment(uuid.uuid4().hex), **variables},
            pass_fds=(listener.fileno(),),
        )
    return Parent(process=process, socket=str(path))


def end_parent(parent: Parent) -> None:
    parent.leave()
    with suppress(subprocess.TimeoutExpired):
        parent.process.wait(timeout=LIMIT_SECONDS)
    parent.process.kill()
    parent.process.wait()
    Path(parent.socket).unlink(missing_ok=True)


@pytest_asyncio.fixture
async def parent(tmp_path: Path) -> AsyncIterator[Parent]:
    """A parent of echo's rank processes."""
    running = start_parent(tmp_path)
    yield running
    await asyncio.to_thread(end_parent, running)


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """The marker of this process, as if it were a contract host."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARKER, mark)
    return mark


async def test_a_fork_is_warm_and_carries_the_marker_of_who_asked(parent: Parent, mark: str) -> None:
    ranks = [await RankProcess.fork(parent.socket) for _ in range(2)]
    for rank in ranks:
        report = await rank.next_report()
        assert report is not None
        assert report.WhichOneof("report") == "warm"
    marked = {process.pid: process for process in marked_processes(mark)}
    assert marked.keys() == {rank.process.pid for rank in ranks}, "these, and not their parent"
    for process in marked.values():
        assert [part for part in process.cmdline() if part][1:] == [
            "-m",
            "tunefleet_core.worker.rank",
            "--entry",
            ECHO,
        ]
    ranks[0].process.kill()
    assert await ranks[0].wait() == -signal.SIGKILL
    for rank in ranks:
        await rank.end(grace_seconds=5.0)
    assert ranks[1].process.returncode is not None
    assert not marked_processes(mark)


async def test_a_fork_dies_with_its_host_and_not_with_its_parent(parent: Parent, mark: str) -> None:
    host = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOST, parent.socket, stdout=asyncio.subprocess.PIPE
    )
    assert host.stdout is not None
    rank = psutil.Process(int(await host.stdout.readline()))
    own = await RankProcess.fork(parent.socket)
    os.kill(rank.pid, signal.SIGSTOP)  # it cannot see its pipe end: the kernel has to do it
    host.kill()
    await host.wait()
    async with asyncio.timeout(LIMIT_SECONDS):
        while rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.02)

    parent.process.kill()
    await asyncio.to_thread(parent.process.wait)
    assert psutil.pid_exists(own.process.pid)
    assert own.process.returncode is None
    own.process.kill()
    assert await own.wait() == 255, "nobody could say how it ended"
    await own.end(grace_seconds=1.0)
    with pytest.raises(CannotForkError, match="refused"):
        await RankProcess.fork(parent.socket)


async def test_other_variables_make_no_fork(
    parent: Parent, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "perhaps")
    with pytest.raises(CannotForkError, match="other variables: HF_HUB_OFFLINE"):
        await RankProcess.fork(parent.socket)
    monkeypatch.undo()
    monkeypatch.setenv(MARKER, mark)
    rank = await RankProcess.fork(parent.socket)
    await rank.end(grace_seconds=1.0)


async def test_a_parent_stays_until_its_children_have_gone(parent: Parent, mark: str) -> None:
    rank = await RankProcess.fork(parent.socket)
    parent.leave()
    with suppress(CannotForkError):
        while True:  # until it has noticed
            other = await RankProcess.fork(parent.socket)
            await other.end(grace_seconds=1.0)
    assert parent.process.poll() is None
    rank.process.terminate()
    assert await rank.wait() == -signal.SIGTERM
    assert await asyncio.to_thread(parent.process.wait, LIMIT_SECONDS) == 0
    await rank.end(grace_seconds=1.0)


def test_what_starts_threads_is_not_forked(tmp_path: Path) -> None:
    (tmp_path / "threaded_rank.py").write_text(THREADED)
    path = os.pathsep.join((str(tmp_path), *sys.path))
    parent = start_parent(tmp_path, "threaded_rank:ThreadedRank", PYTHONPATH=path)
    started = time.monotonic()
    try:
        assert parent.process.wait(timeout=LIMIT_SECONDS) == UNFORKABLE, time.monotonic() - started
    finally:
        end_parent(parent)
