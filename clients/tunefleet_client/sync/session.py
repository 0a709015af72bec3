"""Run the async client for callers who do not: one private event loop on one thread.

The loop is shared by all sync clients of the process and ends with the last of
them: gRPC polls for every loop there is, so a second one would only cost. A call
blocks its caller's thread and no other; a caller may itself run inside a loop, as
every cell of a notebook does.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import CancelledError, Future, wait
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Generic, TypeVar

from tunefleet_client.errors import failure
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["Session"]

_Result = TypeVar("_Result")
_Inner = TypeVar("_Inner")

_END = object()


class _LoopThread:
    """An event loop on a thread of its own, kept for as long as someone holds it."""

    _lock = threading.Lock()
    _shared: _LoopThread | None = None

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(_handle)
        self.process_id = os.getpid()
        self._holders = 0
        # Daemon: a client that nobody closed must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._run, name="tunefleet-client", daemon=True)

    @classmethod
    def take(cls) -> _LoopThread:
        """Return the thread of this process, started, and hold it."""
        with cls._lock:
            shared = cls._shared
            if shared is None or shared.process_id != os.getpid():
                shared = cls._shared = cls()
                shared._thread.start()
            shared._holders += 1
            return shared

    def release(self) -> None:
        """Hold it no longer; the last one to go waits for its end."""
        with self._lock:
            self._holders -= 1
            if self._holders:
                return
            if _LoopThread._shared is self:
                _LoopThread._shared = None
        self.loop.call_soon_threadsafe(self.loop.stop)
        if not self.is_current:
            self._thread.join()

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on it."""
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()


class Session(Generic[_Inner]):
    """An async context, entered on the loop's thread, and calls into it.

    Attributes:
        inner: What the context gave.
    """

    inner: _Inner

    def __init__(self, context: AbstractAsyncContextManager[_Inner]) -> None:
        self._context = context
        self._tasks: set[asyncio.Task[Any]] = set()
        self._streams: set[AsyncGenerator[Any]] = set()
        # Reentrant: the garbage collector may end a stream of ours while this thread holds it.
        self._closing = threading.RLock()
        self._is_closed = False
        self._thread = _LoopThread.take()
        try:
            self.inner = self.call(context.__aenter__())
        except BaseException:
            self._is_closed = True
            self._thread.release()
            raise
        _open_sessions.add(self)

    def call(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine on the loop and return what it returns.

        An interrupt of the waiting (Ctrl-C) cancels the coroutine and waits for its end.

        Raises:
            FailedPrecondition: STATE_CONFLICT if the client is closed, or is being closed.
        """
        with self._closing:  # so that a call is either refused, or begun before the end and cancelled by it
            if self._is_closed or self._is_foreign:
                work.close()
                raise self._unusable()
            outcome, cancel = self._begin(work)
        return self._result(outcome, cancel)

    def iterate(self, items: AsyncGenerator[_Result]) -> Generator[_Result]:
        """Yield what an async generator yields; leaving the loop ends it."""
        self._streams.add(items)
        try:
            while (item := self.call(_next(items))) is not _END:
                yield item  # pyright: ignore[reportReturnType] - only _END is no _Result
        finally:
            self._drop(items)

    def close(self) -> None:
        """End calls under way, leave the context, and the thread if nobody else needs it."""
        with self._closing:
            if self._is_closed:
                return
            if self._is_foreign:
                # Across a fork all of it is the parent's; on its own thread it would wait for itself.
                raise self._unusable()
            self._is_closed = True
            outcome, cancel = self._begin(self._leave())
        _open_sessions.discard(self)
        try:
            self._result(outcome, cancel)
        finally:
            self._thread.release()

    @property
    def _is_foreign(self) -> bool:
        """Whether the caller must not wait for the thread: after a fork, or on the thread itself."""
        return self._thread.process_id != os.getpid() or self._thread.is_current

    async def _leave(self) -> None:
        mine = asyncio.current_task()
        others = [task for task in self._tasks if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for items in list(self._streams):  # those that wait for their caller's next step
            await items.aclose()
        await self._context.__aexit__(None, None, None)

    def _begin(self, work: Coroutine[Any, Any, _Result]) -> tuple[Future[_Result], Callable[[], None]]:
        """Start a coroutine; return its outcome to be, and what cancels it."""
        outcome: Future[_Result] = Future()
        loop = self._thread.loop
        tasks: list[asyncio.Task[_Result]] = []

        def start() -> None:
            task = loop.create_task(work)
            self._tasks.add(task)
            tasks.append(task)
            task.add_done_callback(lambda done: self._settle(done, outcome))

        def cancel() -> None:
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])

        loop.call_soon_threadsafe(start)
        return outcome, cancel

    def _result(self, outcome: Future[_Result], cancel: Callable[[], None]) -> _Result:
        try:
            return outcome.result()
        except CancelledError:
            raise self._unusable() from None
        except BaseException:
            if not outcome.done():  # the waiting was interrupted, not the work
                cancel()
                wait([outcome])
            raise

    def _settle(self, task: asyncio.Task[_Result], outcome: Future[_Result]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            outcome.cancel()
            outcome.set_running_or_notify_cancel()
        elif (error := task.exception()) is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(task.result())

    def _drop(self, items: AsyncGenerator[Any]) -> None:
        """Close a generator, waiting for it unless the loop would wait for itself."""
        self._streams.discard(items)
        with self._closing:
            if self._is_closed or self._thread.process_id != os.getpid():
                return  # closing the session has closed it
            outcome, cancel = self._begin(_close(items))
        if not self._thread.is_current:  # else the garbage collector came by there
            self._result(outcome, cancel)

    def _unusable(self) -> TunefleetError:
        if self._thread.process_id != os.getpid():
            what, hint = "belongs to the process that was forked", "Connect again in this process."
        elif self._thread.is_current:
            what, hint = "is called from its own callback", "Call it from another thread."
        else:
            what, hint = "is closed", "Connect again."
        return failure(Reason.STATE_CONFLICT, f"This client {what}.", hint=hint)


_open_sessions: weakref.WeakSet[Session[Any]] = weakref.WeakSet()


async def _next(items: AsyncGenerator[_Result]) -> _Result | object:
    return await anext(items, _END)


async def _close(items: AsyncGenerator[Any]) -> None:
    await items.aclose()


def _handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Leave out what gRPC's poller says when another loop was woken for the same event."""
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)


@atexit.register
def _close_open_sessions() -> None:
    for session in list(_open_sessions):
        with suppress(TunefleetError):  # made before a fork: not ours
            session.close()
