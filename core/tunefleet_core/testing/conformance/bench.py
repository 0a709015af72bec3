"""The bench on which a backend is examined: one transport, and the calls tests make."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from google.protobuf.message import Message

from tunefleet.backend.v1 import backend_service_pb2 as pb
from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet.backend.v1.run_pb2 import Run, RunOrder, RunState, StopMode
from tunefleet.backend.v1.server_pb2 import Engine, EngineState
from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent
from tunefleet_core.testing.conformance.calls import Calls, Refused
from tunefleet_core.testing.conformance.orders import Orders
from tunefleet_core.testing.conformance.profile import Profile, Transport
from tunefleet_core.testing.conformance.transports import open_transport

__all__ = ["Bench", "in_words"]

_T = TypeVar("_T")
_POLL_SECONDS = 0.05
_CLOSE_SECONDS = 60.0


class Bench:
    """A backend that is reached over one transport. Tests of one class share it."""

    def __init__(self, profile: Profile, transport: Transport) -> None:
        self.profile = profile
        self.transport = transport
        self.folder = Path(tempfile.mkdtemp(prefix="tfk-", dir="/tmp"))
        self.orders = Orders(profile=profile, folder=self.folder)
        self.manifest = BackendManifest()
        self.times: dict[str, float] = {}
        self._calls: Calls | None = None
        self._runner = asyncio.Runner()
        self._closing = asyncio.Event()
        self._holder: asyncio.Task[None] | None = None
        self._engine: Engine | None = None
        self._shared: dict[object, object] = {}

    # --- its life ----------------------------------------------------------------------

    def open(self) -> None:
        """Reach the backend and ask who it is."""
        self._runner.run(self._open())

    def close(self) -> None:
        """End what was started."""
        try:
            self._runner.run(self._close())
        finally:
            self._runner.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a test to its end, within the profile's limit."""

        async def limited() -> _T:
            async with asyncio.timeout(self.profile.limit_seconds):
                return await work

        return self._runner.run(limited())

    async def _open(self) -> None:
        opened = asyncio.Event()
        # One task opens and closes the transport: a task group must end in the task that began it.
        self._holder = asyncio.get_running_loop().create_task(self._hold(opened))
        waiting = asyncio.get_running_loop().create_task(opened.wait())
        await asyncio.wait((waiting, self._holder), return_when=asyncio.FIRST_COMPLETED)
        if self._holder.done():
            waiting.cancel()
            self._holder.result()
        self.manifest = (await self.call("GetBackend", pb.GetBackendRequest())).manifest

    async def _hold(self, opened: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            self._calls = await stack.enter_async_context(open_transport(self.profile, self.transport))
            opened.set()
            await self._closing.wait()

    async def _close(self) -> None:
        self._closing.set()
        if self._holder is not None:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._holder

    # --- what it can do ------------------------------------------------------------------

    def has(self, capability: Capability.ValueType) -> bool:
        """Return whether the backend declares a capability."""
        return capability in self.manifest.capabilities

    # --- calls -------------------------------------------------------------------------

    @property
    def calls(self) -> Calls:
        """The calls, for what has no method of its own here."""
        assert self._calls is not None, "the bench is not open"
        return self._calls

    @contextmanager
    def on(self, calls: Calls) -> Generator[None]:
        """Make the calls of a block over another worker."""
        before, self._calls = self._calls, calls
        try:
            yield
        finally:
            self._calls = before

    async def call(self, method: str, request: Message) -> Any:
        """Call a unary method."""
        return await self.calls.unary(method, request)

    async def refusal(self, method: str, request: Message) -> Refused:
        """Call a method that must fail, and return how it did."""
        try:
            answer = await self.call(method, request)
        except Refused as refused:
            return refused
        raise AssertionError(f"{method} should have failed, it answered: {answer}")

    async def start(self, order: RunOrder) -> Run:
        """Start a run."""
        return (await self.call("StartRun", pb.StartRunRequest(request_id=_key(), order=order))).run

    async def get(self, name: str) -> Run:
        """Return a run."""
        return (await self.call("GetRun", pb.GetRunRequest(run=name))).run

    async def stop(self, name: str, mode: StopMode.ValueType = StopMode.STOP_MODE_CANCEL) -> Run:
        """Stop a run."""
        request = pb.StopRunRequest(request_id=_key(), run=name, mode=mode)
        return (await self.call("StopRun", request)).run

    async def events(self, name: str, after: int = 0) -> list[JobEvent]:
        """Return the events of a run after a sequence, to its end."""
        return [event async for event in self.follow(name, after)]

    async def follow(self, name: str, after: int = 0) -> AsyncGenerator[JobEvent]:
        """Yield the events of a run as they come."""
        request = pb.StreamRunEventsRequest(run=name, after_source_sequence=after)
        async for response in self.calls.stream("StreamRunEvents", request):
            for event in response.events:
                yield event

    async def until(self, name: str, is_it: Callable[[JobEvent], bool]) -> JobEvent:
        """Return the first event of a kind; fails if the run ends without one."""
        async with aclosing(self.follow(name)) as events:
            async for event in events:
                if is_it(event):
                    return event
        raise AssertionError(f"run '{name}' ended without the event; {in_words(await self.get(name))}")

    async def until_step(self, name: str, step: int) -> None:
        """Wait until a run has done a step."""
        await self.until(name, lambda event: event.metrics.step >= step)

    async def finish(self, order: RunOrder) -> Run:
        """Start a run and wait for its end."""
        await self.start(order)
        await self.events(order.run)
        run = await self.get(order.run)
        assert run.state == RunState.RUN_STATE_ENDED, f"the stream ended, the run did not: {in_words(run)}"
        return run

    @asynccontextmanager
    async def working(self, order: RunOrder, *, step: int = 0) -> AsyncGenerator[Run]:
        """Yield a run that works, after a step; it is cancelled at the end of the block."""
        run = await self.start(order)
        try:
            if step:
                await self.until_step(order.run, step)
            yield run
        finally:
            await self.stop(order.run)

    async def shared(self, make: Callable[[Bench], Awaitable[_T]]) -> _T:
        """Return what tests share and leave as it is, made on first use.

        A run costs a backend on torch seconds of imports, and many tests only read of one.
        """
        if make not in self._shared:
            self._shared[make] = await make(self)
        return cast("_T", self._shared[make])

    async def engine(self) -> Engine:
        """Return the engine that tests share, started on first use and ready."""
        if self._engine is None:
            self._engine = await self._new_engine()
        return self._engine

    async def engine_to_end(self) -> Engine:
        """Return an engine that the test ends: the shared one, since a start is half a minute of CPU."""
        engine, self._engine = await self.engine(), None
        return engine

    async def _new_engine(self) -> Engine:
        order = self.orders.engine()
        await self.call("StartEngine", pb.StartEngineRequest(request_id=_key(), order=order))
        engine = await self.settled(order.engine)
        assert engine.state == EngineState.ENGINE_STATE_READY, f"the engine is not ready: {engine}"
        return engine

    async def settled(self, name: str) -> Engine:
        """Return an engine that has started or failed to."""
        while True:
            engine = await self.get_engine(name)
            if engine.state != EngineState.ENGINE_STATE_STARTING:
                return engine
            await asyncio.sleep(_POLL_SECONDS)

    async def get_engine(self, name: str) -> Engine:
        """Return an engine."""
        return (await self.call("GetEngine", pb.GetEngineRequest(engine=name))).engine

    # --- what is on disk -----------------------------------------------------------------

    def output_digests(self, order: RunOrder) -> Mapping[str, str]:
        """Return the output files of a run with their digests, without those that may vary."""
        folder = Path(order.work_dir) / "output"
        return dict(_digests(folder, self.profile.varying_files))


def in_words(run: Run) -> str:
    """Return how a run stands as one line, for whoever reads a failed test."""
    state = RunState.Name(run.state).removeprefix("RUN_STATE_")
    outcome = AttemptOutcome.Name(run.outcome).removeprefix("ATTEMPT_OUTCOME_")
    return f"{run.name} is {state}, {outcome}: {run.error.message or 'without an error'}"


def _digests(folder: Path, left_out: frozenset[str]) -> Iterable[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in left_out:
            yield str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()


def _key() -> str:
    return str(uuid.uuid4())
