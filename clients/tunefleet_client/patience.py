"""What makes a transfer go on: a cut is waited out for as long as something moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from tunefleet_client.calls import Connection
from tunefleet_client.errors import failure
from tunefleet_core.errors import Reason, TunefleetError, error_from_trailing_metadata

__all__ = ["Patience", "broken", "stall"]


class Patience:
    """Waits out cuts for as long as something moves."""

    def __init__(self, connection: Connection, give_up_seconds: float) -> None:
        self._backoff = connection.backoff
        self._give_up_seconds = give_up_seconds
        self._failures = 0
        self._best = -1
        self._since = asyncio.get_running_loop().time()

    def moved(self, position: int) -> None:
        """Note how far the transfer is; only what is further than ever counts as moving."""
        if position > self._best:
            self._best = position
            self._failures = 0
            self._since = asyncio.get_running_loop().time()

    def start_over(self) -> None:
        """The transfer begins again from nothing."""
        self._best = -1
        self.moved(0)

    def require(self, seconds: float) -> None:
        """Raise TIME_LIMIT if nothing has moved for so long."""
        if asyncio.get_running_loop().time() - self._since > seconds:
            raise _silent(seconds)

    async def wait_or_raise(self, error: TunefleetError) -> None:
        """Wait before the next try, or raise what cannot be waited out."""
        is_cut = error.reason in (Reason.UNAVAILABLE, Reason.TIME_LIMIT, Reason.UPLOAD_MOVED)
        waited = asyncio.get_running_loop().time() - self._since
        if not is_cut or waited > self._give_up_seconds:
            raise error
        self._failures += 1
        await asyncio.sleep(self._backoff.seconds(self._failures))


def broken(connection: Connection, error: grpc.aio.AioRpcError) -> TunefleetError:
    """Return what a failed transfer means; a stream that broke without an answer was cut.

    gRPC says INTERNAL when a piece cannot be sent because the other side has just ended.
    """
    broken = (grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)
    if error.code() in broken and error_from_trailing_metadata(error.trailing_metadata() or ()) is None:
        return failure(
            Reason.UNAVAILABLE,
            f"The transfer broke off: {error.details()}.",
            hint="Run it again; it goes on where it stopped.",
        )
    return connection.failure(error)


@asynccontextmanager
async def stall(seconds: float) -> AsyncGenerator[None]:
    """Bound one step of a stream, which as a whole may take hours."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise _silent(seconds) from None


def _silent(seconds: float) -> TunefleetError:
    return failure(
        Reason.TIME_LIMIT,
        f"The blobs process said nothing for {seconds:.0f} s.",
        hint="Run it again; it goes on where it stopped.",
    )
