"""The sync face: same nouns and signatures, one thread, clean ends."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

import tunefleet_client.client
import tunefleet_client.sync
from tunefleet.deployment.v1.deployment_pb2 import Deployment
from tunefleet.job.v1.event_pb2 import JobEvent, Metrics
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_client import FailedPrecondition, NotFound, Unavailable
from tunefleet_client.calls import Backoff
from tunefleet_client.sync import Client, connect
from tunefleet_client.testing import FakeCoordinator

ROOT = Path(__file__).resolve().parents[3]
NAME = "projects/default/jobs/a"
THREAD = "tunefleet-client"
_T = TypeVar("_T")


class Served:
    """A FakeCoordinator on a loop of its own, as a coordinator elsewhere would be."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda *_: None)  # gRPC's poller wakes both loops
        self.thread = threading.Thread(target=self.loop.run_forever, name="served")
        self.thread.start()
        self.fake = self.run(self._started())

    async def _started(self) -> FakeCoordinator:
        fake = FakeCoordinator()
        await fake.start()
        return fake

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine where the fake lives."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def close(self) -> None:
        """Stop it all."""
        self.run(self.fake.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def connect(self) -> Client:
        """Open a sync client of it."""
        return connect(self.fake.address, self.fake.token, backoff=Backoff(first_seconds=0.01))

    def add_job(self, *, events: int = 3, state: JobState.ValueType = JobState.JOB_STATE_RUNNING) -> None:
        """Add a job with some history."""
        self.fake.jobs[NAME] = Job(name=NAME, state=state)
        steps = [JobEvent(metrics=Metrics(step=number)) for number in range(1, events + 1)]
        self.run(self.fake.append(NAME, *steps))


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served()
    yield server
    server.close()
    assert threads() == 0


def threads() -> int:
    """Return how many threads of sync clients there are."""
    return sum(thread.name == THREAD for thread in threading.enumerate())


def within(is_so: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Return whether something becomes so."""
    end = time.monotonic() + seconds
    while not is_so() and time.monotonic() < end:
        time.sleep(0.01)
    return is_so()


def test_nouns_methods_and_signatures_are_those_of_the_async_client(served: Served) -> None:
    with served.connect() as client:
        nouns = {name: noun for name, noun in vars(client._inner).items() if not name.startswith("_")}
        assert {"jobs", "models", "deployments", "fleet", "catalog", "inference"} <= nouns.keys()
        for name, noun in {"": client._inner, **nouns}.items():
            if isinstance(noun, str):
                assert getattr(client, name) == noun
                continue
            twin = getattr(client, name) if name else client
            methods = {key for key in vars(type(noun)) if not key.startswith("_")}
            assert methods == {key for key in vars(type(twin)) if not key.startswith("_")} - {"close"}
            for method in methods:
                expected = inspect.signature(getattr(noun, method))
                found = inspect.signature(getattr(twin, method))
                assert list(found.parameters.values()) == list(expected.parameters.values()), method
                returns = str(expected.return_annotation).removeprefix("Async")
                assert found.return_annotation == returns, method
    signature = inspect.signature(tunefleet_client.client.connect)
    assert inspect.signature(connect).parameters == signature.parameters


def test_the_generated_modules_are_fresh() -> None:
    command = [sys.executable, str(ROOT / "clients" / "generate_sync.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr


def test_calls_return_and_raise_as_their_twins_do(served: Served) -> None:
    served.add_job()
    with served.connect() as client:
        assert client.jobs.get("a").name == NAME
        assert [job.name for job in client.jobs.list()] == [NAME]
        with pytest.raises(NotFound) as caught:
            client.jobs.get("none")
    assert caught.value.hint


def test_a_watch_is_a_for_loop_to_its_end(served: Served) -> None:
    served.add_job(events=25, state=JobState.JOB_STATE_SUCCEEDED)
    with served.connect() as client:
        events = [change.event.sequence for change in client.jobs.watch("a") if change.event is not None]
    assert events == list(range(1, 26))


def test_a_watch_can_be_broken_out_of_and_ends_its_stream(served: Served) -> None:
    served.add_job()
    with served.connect() as client:
        for _ in range(3):
            for change in client.jobs.watch("a"):
                if change.event is not None and change.event.sequence == 2:
                    break
        assert client._session._streams == set()
        changes = client.jobs.watch("a")
        next(changes)
        assert len(client._session._streams) == 1
        changes.close()
        assert client._session._streams == set()


def test_a_watch_survives_a_coordinator_that_restarts_ten_times(served: Served) -> None:
    served.add_job(events=1)

    async def work() -> None:
        for number in range(2, 41):
            await served.fake.append(NAME, JobEvent(metrics=Metrics(step=number)))
            if number % 4 == 0:
                await served.fake.stop()
                await asyncio.sleep(0.02)
                await served.fake.start()
        await served.fake.move(NAME, JobState.JOB_STATE_SUCCEEDED)

    with served.connect() as client, ThreadPoolExecutor(1) as pool:
        done = pool.submit(served.run, work())
        events = [change.event.sequence for change in client.jobs.watch("a") if change.event is not None]
        done.result()
    assert events == list(range(1, 42))


def test_a_chat_streams(served: Served) -> None:
    served.fake.add_gateway()
    served.fake.deployments["projects/default/deployments/m"] = Deployment(name="m")
    with served.connect() as client:
        assert "".join(piece.text for piece in client.chat("m", "hello")) == "I am a fake."


async def test_it_works_inside_a_running_loop_as_in_a_notebook(served: Served) -> None:
    served.add_job()
    client = served.connect()
    assert client.jobs.get("a").name == NAME
    for _ in client.jobs.watch("a"):
        break
    client.close()


def test_many_threads_share_one_client_and_one_loop(served: Served) -> None:
    served.add_job(events=20, state=JobState.JOB_STATE_SUCCEEDED)
    before = threading.active_count()
    with served.connect() as client, ThreadPoolExecutor(8) as pool:

        def work(_: int) -> int:
            assert client.jobs.get("a").name == NAME
            return sum(change.event is not None for change in client.jobs.watch("a"))

        counts = list(pool.map(work, range(24)))
        assert threads() == 1
    assert counts == [20] * 24
    assert threading.active_count() <= before + 1  # the executor of asyncio.to_thread goes with its loop


def test_the_thread_is_shared_by_clients_and_ends_with_the_last(served: Served) -> None:
    first, second = served.connect(), served.connect()
    assert threads() == 1
    first.close()
    assert threads() == 1
    assert second.jobs.list() == ()
    second.close()
    second.close()
    assert threads() == 0
    with served.connect() as third:
        assert third.jobs.list() == ()


def test_a_closed_client_says_so(served: Served) -> None:
    client = served.connect()
    client.close()
    with pytest.raises(FailedPrecondition, match="closed"):
        client.jobs.list()
    with pytest.raises(FailedPrecondition, match="closed"):
        next(client.jobs.watch("a"))


def test_closing_ends_what_other_threads_wait_for(served: Served) -> None:
    served.add_job(events=1)
    client = served.connect()
    seen = threading.Event()

    def follow() -> None:
        for change in client.jobs.watch("a"):
            if change.event is not None:
                seen.set()

    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow)
        assert seen.wait(20)
        client.close()
        with pytest.raises(FailedPrecondition, match="closed"):
            following.result(20)


def test_closing_races_with_calls_of_other_threads_and_none_hangs(served: Served) -> None:
    served.add_job()

    def call(client: Client) -> None:
        try:
            while True:
                client.jobs.get("a")
        except FailedPrecondition:
            return

    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            client = served.connect()
            calls = [pool.submit(call, client) for _ in range(4)]
            time.sleep(0.02)
            client.close()
            for ended in calls:
                ended.result(20)


def test_a_watch_that_nobody_finished_is_ended_by_close(served: Served) -> None:
    served.add_job()
    with served.connect() as client:
        changes = client.jobs.watch("a")
        next(changes)
    assert threads() == 0
    changes.close()
    gc.collect()


def test_a_failed_connect_leaves_no_thread(served: Served) -> None:
    with pytest.raises(Unavailable):
        connect(state_folder="/nonexistent")
    assert threads() == 0


# What a shell starts in the background ignores Ctrl-C, and hands that down.
PROGRAM = """
import signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
from tunefleet_client.sync import connect
client = connect(sys.argv[1], sys.argv[2])
client.jobs.list()
changes = client.jobs.watch("a")
next(changes)
print("ready", flush=True)
{end}
"""


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "del client", "del changes"])
def test_a_program_that_closes_nothing_ends(served: Served, end: str) -> None:
    served.add_job()
    command = [sys.executable, "-W", "error", "-c", PROGRAM.format(end=end)]
    result = subprocess.run(
        [*command, served.fake.address, served.fake.token],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout) == (3 if "Exit" in end else 0, "ready\n"), result.stderr
    assert result.stderr == ""


def test_ctrl_c_ends_the_waiting_and_the_client_lives_on(served: Served) -> None:
    served.add_job()
    end = """
try:
    for _ in changes:
        pass
except KeyboardInterrupt:
    print(client.jobs.get("a").name, flush=True)
client.close()
print([thread.name for thread in threading.enumerate() if thread.name == "tunefleet-client"])
"""
    command = [sys.executable, "-c", PROGRAM.format(end=end), served.fake.address, served.fake.token]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert output == f"{NAME}\n[]\n", errors
    assert process.returncode == 0, errors


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform does not fork")
def test_a_forked_process_is_told_to_connect_again(served: Served) -> None:
    program = """
import os, sys
from tunefleet_client import TunefleetError
from tunefleet_client.sync import connect
client = connect(sys.argv[1], sys.argv[2])
client.jobs.list()
child = os.fork()
if child == 0:
    try:
        client.jobs.list()
    except TunefleetError as error:
        os.write(1, error.message.encode())
    os._exit(0)
os.waitpid(child, 0)
client.close()
"""
    result = subprocess.run(
        [sys.executable, "-c", program, served.fake.address, served.fake.token],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "forked" in result.stdout
