"""A fleet of real processes for tests that kill them.

Every process is started by the test, on free loopback ports, with a state folder in a
short path. All of them, and whatever they start in turn, carry one marker in their
environment: at the end the test proves that none of them is left.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tunefleet.artifact.v1 import artifact_service_pb2_grpc as artifact_grpc
from tunefleet.artifact.v1.artifact_service_pb2 import GetManifestRequest
from tunefleet.fleet.v1.fleet_pb2 import Service, ServiceState
from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_client import Client, connect
from tunefleet_client.calls import Backoff
from tunefleet_core.artifacts import BlobStore
from tunefleet_core.errors import TunefleetError
from tunefleet_core.ports import free_ports
from tunefleet_core.process import SUPERVISED
from tunefleet_core.rpc import ChannelTls, open_channel
from tunefleet_core.worker.marker import end_marked, marked_processes
from tunefleet_echo.rank import final_state

__all__ = ["TEST_MARKER", "ChaosFleet", "Timeline", "assert_whole", "echo_job", "slack"]

TEST_MARKER = "TUNEFLEET_TEST_MARK"
LEASE_SECONDS = 2.0
_LIMIT_SECONDS = 60.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.02
_MOST_POLL_SECONDS = 0.25
_SHARE_OF_POLLS = 6
"""Looking takes one part in so many of the time: who looks takes the core from what it waits for."""
_FINAL_STATE_FILE = "state.json"


def slack() -> float:
    """Return by how much a promised time may be exceeded here and now.

    The promises are for a machine with a core to spare. Where more processes want to run
    than there are cores, each gets its share only: the bound grows with the load per core.
    """
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def echo_job(
    *, steps: int = 20, every_steps: int = 5, seed: int = 1, max_attempts: int = 3, **options: float | bool
) -> JobSpec:
    """Return a job for the echo backend; `options` are its backend options."""
    spec = JobSpec(name="chaos", backend="echo", max_attempts=max_attempts)
    spec.train.base.model = "nothing"
    spec.train.data.train.add(source="nothing.jsonl")
    spec.train.method.sft.SetInParent()
    spec.train.adapter.lora.SetInParent()
    spec.train.optim.max_steps = steps
    spec.train.checkpoint.every_steps = every_steps
    spec.train.seed = seed
    spec.backend_options.update(options)
    return spec


def assert_whole(events: Sequence[JobEvent]) -> None:
    """Assert that no event is missing or doubled: by job sequence, and by source per attempt."""
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    by_attempt: dict[int, list[int]] = {}
    for event in events:
        if event.source_sequence:
            by_attempt.setdefault(event.attempt, []).append(event.source_sequence)
    for attempt, sequences in by_attempt.items():
        assert sequences == list(range(1, len(sequences) + 1)), f"attempt {attempt}: {sequences}"


@dataclass(frozen=True, kw_only=True)
class RunOnDisk:
    """An attempt as its trainer keeps it."""

    folder: Path
    mark: str

    def pids(self) -> dict[str, int]:
        """Return the live processes of the attempt: `host`, `rank`, and others by pid."""
        found: dict[str, int] = {}
        for process in marked_processes(self.mark):
            try:
                line = " ".join(process.cmdline())
            except psutil.NoSuchProcess:
                continue
            if "worker.host" in line:
                found["host"] = process.pid
            elif "worker.rank" in line:
                found["rank"] = process.pid
            else:
                found[str(process.pid)] = process.pid
        return found


class Timeline:
    """The events of a job as they come."""

    def __init__(self) -> None:
        self.events: list[JobEvent] = []
        self.job = Job()
        self.changed = asyncio.Condition()

    def find(self, is_it: Callable[[JobEvent], bool]) -> JobEvent | None:
        """Return the first event of a kind."""
        return next((event for event in self.events if is_it(event)), None)

    async def wait_for(
        self, is_it: Callable[[JobEvent], bool], limit_seconds: float = _LIMIT_SECONDS
    ) -> JobEvent:
        """Return the first event of a kind, once it has come."""
        async with asyncio.timeout(limit_seconds), self.changed:
            while (found := self.find(is_it)) is None:
                await self.changed.wait()
        return found


class ChaosFleet:
    """Coordinator and services as child processes. Made by `chaos_fleet`."""

    finish_seconds = _LIMIT_SECONDS
    """How long a job may take to its end."""

    def __init__(
        self, root: Path, *, lease_seconds: float = LEASE_SECONDS, coordinator_options: Sequence[str] = ()
    ) -> None:
        self.root = root
        self._coordinator_options = tuple(coordinator_options)
        self.state = root / "state"
        self.lease_seconds = lease_seconds
        self.mark = uuid.uuid4().hex
        self.user_address, self.service_address = (f"127.0.0.1:{port}" for port in free_ports(2))
        self._sockets = root / "tmp"
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._trainer_options: dict[str, tuple[str, ...]] = {}
        self._sockets.mkdir()

    # --- processes ---------------------------------------------------------------------

    @property
    def tls(self) -> ChannelTls | None:
        """What a channel to the listener for people is secured by."""
        return None

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every process of the fleet."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TUNEFLEET_")}
        return {**kept, TEST_MARKER: self.mark, SUPERVISED: "1", "TMPDIR": str(self._sockets)}

    async def start_coordinator(self) -> None:
        """Start the coordinator and wait until it answers."""
        await self.spawn(
            "coordinator",
            "-m",
            "tunefleet_coordinator",
            "--state",
            str(self.state),
            "--user-address",
            self.user_address,
            "--service-address",
            self.service_address,
            "--lease-seconds",
            str(self.lease_seconds),
            *self._coordinator_options,
        )
        await self.until(self._answers, "the coordinator answers")

    async def start_trainer(self, name: str = "trainer", *options: str, is_awaited: bool = True) -> None:
        """Start a trainer, again with the same options, and wait until it has a new session."""
        self._trainer_options[name] = options or self._trainer_options.get(name, ())
        before = await self._epoch(name) if is_awaited else 0
        await self.spawn(
            name,
            "-m",
            "tunefleet_services.trainer",
            "--address",
            self.service_address,
            "--token-file",
            str(self.state / "service.token"),
            "--state",
            str(self.state),
            "--name",
            name,
            "--lease-seconds",
            str(self.lease_seconds),
            "--stop-seconds",
            "10",  # less than a stop may take here
            *self._trainer_options[name],
        )
        if is_awaited:
            async with self.client() as client:
                await self.until(lambda: self._is_attached(client, name, before), f"{name} is attached")

    async def spawn(self, name: str, *arguments: str) -> asyncio.subprocess.Process:
        """Start a Python process of the fleet with a log of its name."""
        with (self.root / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdin=asyncio.subprocess.PIPE,  # ends with the test run, however that ends
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        self._processes[name] = process
        return process

    @staticmethod
    def now() -> float:
        """Return the time by the clock of every measurement here."""
        return time.monotonic()

    def pid(self, name: str) -> int:
        """Return the process id of a process of the fleet."""
        return self._processes[name].pid

    async def kill(self, name: str) -> None:
        """SIGKILL one process, and only it."""
        self._processes[name].kill()
        await self._processes[name].wait()

    async def stop(self, name: str, number: int = signal.SIGTERM) -> int:
        """TERM one process, or send it another signal, and return its exit code."""
        process = self._processes[name]
        if process.returncode is None:
            process.send_signal(number)
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.send_signal(signal.SIGUSR1)  # every process of ours then logs its stacks
                await asyncio.sleep(0.5)
                await self.kill(name)
                raise AssertionError(f"{name} did not stop:\n{self.log(name)[-5000:]}") from None
        assert process.returncode is not None
        return process.returncode

    def processes(self) -> list[tuple[int, str]]:
        """Return every live process of the fleet, with its command line."""
        found: list[tuple[int, str]] = []
        for process in self._left():
            try:
                found.append((process.pid, " ".join(process.cmdline())))
            except psutil.NoSuchProcess:
                continue
        return found

    def log(self, name: str) -> str:
        """Return what a process has logged."""
        return (self.root / f"{name}.log").read_text(errors="replace")

    # --- what is seen from outside -------------------------------------------------------

    @asynccontextmanager
    async def client(self, *, tries: int = 20) -> AsyncGenerator[Client]:
        """Open a client with the admin token; twenty tries go on for four seconds."""
        async with connect(
            self.user_address, self.token("admin"), backoff=Backoff(most_seconds=0.3, tries=tries)
        ) as client:
            yield client

    def token(self, name: str) -> str:
        """Return the `admin` or the `service` token."""
        return (self.state / f"{name}.token").read_text().strip()

    @asynccontextmanager
    async def watching(self, client: Client, name: str) -> AsyncIterator[Timeline]:
        """Follow a job while the block runs."""
        timeline = Timeline()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_follow(client, name, timeline))
            yield timeline
            task.cancel()

    async def finish(self, client: Client, name: str) -> tuple[Job, list[JobEvent]]:
        """Wait for the end of a job; return it and its whole history."""
        timeline = Timeline()
        async with asyncio.timeout(self.finish_seconds):
            await _follow(client, name, timeline)
        return timeline.job, timeline.events

    async def services(self) -> dict[str, Service]:
        """Return the services by short name."""
        async with self.client() as client:
            return await self._services(client)

    @staticmethod
    async def _services(client: Client) -> dict[str, Service]:
        return {item.name.removeprefix("services/"): item for item in await client.fleet.list()}

    def runs(self, trainer: str = "trainer") -> list[RunOnDisk]:
        """Return the attempts that a trainer keeps and that have a host."""
        found: list[RunOnDisk] = []
        for path in sorted(self._work(trainer).glob("runs/*/run.json")):
            try:
                content = json.loads(path.read_text())
            except FileNotFoundError:  # removed meanwhile
                continue
            found.append(RunOnDisk(folder=path.parent, mark=content["mark"]))
        return found

    def assignments(self, trainer: str = "trainer") -> list[Path]:
        """Return the folders of the attempts that a trainer has written down, begun or not."""
        return [path.parent for path in sorted(self._work(trainer).glob("runs/*/assignment.pb"))]

    def run_of(self, job: Job, attempt: int = 1, trainer: str = "trainer") -> RunOnDisk | None:
        """Return one attempt, if its trainer keeps it and it has a host."""
        folder = f"{job.uid}-{attempt}"
        return next((run for run in self.runs(trainer) if run.folder.name == folder), None)

    async def run_begun(self, job: Job, attempt: int = 1, trainer: str = "trainer") -> RunOnDisk:
        """Wait until an attempt has a host and return it."""
        await self.until(lambda: self.run_of(job, attempt, trainer) is not None, "the attempt has a host")
        found = self.run_of(job, attempt, trainer)
        assert found is not None
        return found

    async def output_state(self, job: Job) -> str:
        """Return the final state in the committed output of an echo job, checked by digest."""
        folder = self.root / f"output-{uuid.uuid4().hex[:8]}"
        await self.materialise(job.result.manifest_digest, folder)
        return str(json.loads((folder / _FINAL_STATE_FILE).read_text())["state"])

    async def materialise(self, digest: str, folder: Path) -> None:
        """Lay out a committed artifact, each file checked by digest."""
        channel = open_channel(self.user_address, self.tls)
        try:
            stub = artifact_grpc.ArtifactServiceStub(channel)
            response = await stub.GetManifest(
                GetManifestRequest(digest=digest), metadata=self.bearer("admin"), timeout=10
            )
        finally:
            await channel.close()
        store = BlobStore(self.state / "artifacts")
        await asyncio.to_thread(store.materialise, response.manifest, folder)

    def bearer(self, name: str) -> tuple[tuple[str, str], ...]:
        """Return the metadata that carries a token."""
        return (("authorization", f"Bearer {self.token(name)}"),)

    async def assert_succeeded(self, job: Job, events: Sequence[JobEvent]) -> None:
        """Assert a whole history and the final state of a run that was never disturbed."""
        assert job.state == JobState.JOB_STATE_SUCCEEDED, job
        assert_whole(events)
        assert job.last_sequence == len(events)
        train = job.spec.train
        assert await self.output_state(job) == final_state(train.seed, train.optim.max_steps)

    async def until(
        self,
        is_so: Callable[[], object],
        what: str,
        limit_seconds: float = _LIMIT_SECONDS,
    ) -> float:
        """Wait until a condition (plain or async) holds; return how long that took in seconds."""
        start = time.monotonic()
        while True:
            looked = time.monotonic()
            result = is_so()
            if asyncio.iscoroutine(result):
                result = await result
            now = time.monotonic()
            if result:
                return now - start
            if now - start > limit_seconds:
                raise AssertionError(f"not within {limit_seconds:.0f} s: {what}\n{self._logs()}")
            took = (_SHARE_OF_POLLS - 1) * (now - looked)
            await asyncio.sleep(min(max(_POLL_SECONDS, took), _MOST_POLL_SECONDS))

    # --- the end -----------------------------------------------------------------------

    async def close(self) -> None:
        """Stop everything and prove that nothing is left; ends what is left, then fails."""
        for pid in self._stopped():
            os.kill(pid, signal.SIGCONT)
        failures: list[AssertionError] = []
        for name in reversed(self._processes):
            try:
                await self.stop(name)
            except AssertionError as error:  # the others have to stop all the same
                failures.append(error)
        await self._assert_nothing_left()
        if failures:
            raise failures[0]

    async def _assert_nothing_left(self) -> None:
        # A contract host outlives its trainer by one lease term, in case it is adopted.
        limit = self.lease_seconds + 8.0 * slack()
        try:
            await self.until(lambda: not self._left(), "every process of the fleet has ended", limit)
        except AssertionError:
            left = self.processes()
            await asyncio.to_thread(end_marked, self.mark, variable=TEST_MARKER, grace_seconds=0.0)
            raise AssertionError(f"processes outlived their fleet: {left}\n{self._logs()}") from None

    def _left(self) -> list[psutil.Process]:
        return marked_processes(self.mark, variable=TEST_MARKER)

    def _stopped(self) -> list[int]:
        return [process.pid for process in self._left() if process.status() == psutil.STATUS_STOPPED]

    def _logs(self) -> str:
        logs = sorted(self.root.glob("*.log")) + sorted(self.root.glob("**/hosts/*.log"))
        tails = (f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-15:]) for log in logs)
        return "\n".join(tails)

    def _work(self, trainer: str) -> Path:
        options = self._trainer_options.get(trainer, ())
        if "--work" in options:
            return Path(options[options.index("--work") + 1])
        return self.state / "services" / trainer

    async def _answers(self) -> bool:
        process = self._processes["coordinator"]
        assert process.returncode is None, self.log("coordinator")
        if not (self.state / "admin.token").exists():
            return False
        try:
            async with connect(self.user_address, self.token("admin"), backoff=Backoff(tries=1)) as client:
                await client.fleet.list()
        except TunefleetError:
            return False
        return True

    async def _epoch(self, name: str) -> int:
        service = (await self.services()).get(name)
        return 0 if service is None else service.session_epoch

    async def _is_attached(self, client: Client, name: str, before: int) -> bool:
        assert self._processes[name].returncode is None, self.log(name)
        service = (await self._services(client)).get(name)
        return (
            service is not None
            and service.session_epoch > before
            and service.state == ServiceState.SERVICE_STATE_ATTACHED
        )


async def _follow(client: Client, name: str, timeline: Timeline) -> None:
    async with aclosing(client.jobs.watch(name)) as changes:
        async for change in changes:
            async with timeline.changed:
                if change.event is not None:
                    timeline.events.append(change.event)
                if change.snapshot is not None:
                    timeline.job = change.snapshot
                timeline.changed.notify_all()
