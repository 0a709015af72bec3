"""Follow what changes as if the connection never broke.

Whatever cuts a stream (a coordinator that restarts, a laptop that sleeps) is bridged by asking
again for what comes after the last sequence that was handed out. What a stream holds is the
business of whoever follows: a job or a deployment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

import grpc.aio

from tunefleet_client.calls import Connection, is_handshake
from tunefleet_client.streams import messages_of
from tunefleet_core.errors import TunefleetError
from tunefleet_core.rpc import is_worth_repeating

__all__ = ["Hole", "Progress", "follow"]

_Change = TypeVar("_Change")
_ChangeTold = TypeVar("_ChangeTold", covariant=True)
_Message = TypeVar("_Message", bound="_Answer")
_MessageTaken = TypeVar("_MessageTaken", contravariant=True)


class _Answer(Protocol):
    def HasField(self, field_name: Any, /) -> bool: ...


class Hole(Exception):
    """Something is missing between what was handed out and what a stream says next."""


class Progress(Protocol[_MessageTaken, _ChangeTold]):
    """What was handed out so far, across streams."""

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to follow."""
        ...

    def begin_stream(self) -> None:
        """A stream begins."""
        ...

    def take(self, message: _MessageTaken) -> Sequence[_ChangeTold]:
        """Return what a message adds. Raises Hole once everything before it was handed out."""
        ...

    def end_stream(self) -> None:
        """A stream ended well."""
        ...

    def nothing_comes(self) -> TunefleetError:
        """Return the error for a coordinator that answers, but not with what should come next."""
        ...


async def follow(
    connection: Connection,
    progress: Progress[_Message, _Change],
    open_stream: Callable[[], Any],
    kind: type[_Message],
    *,
    give_up_seconds: float,
) -> AsyncGenerator[_Change]:
    """Yield changes, over as many streams as it takes, until there is nothing more to follow.

    Args:
        connection: Where to.
        progress: What messages mean.
        open_stream: Begins a call of grpc.aio for what comes after the progress so far.
        kind: What its messages are. One with `heartbeat` is a sign of life and nothing else.
        give_up_seconds: How long the coordinator may be away.

    Raises:
        TunefleetError: What the coordinator answered; UNAVAILABLE after being away too long.
    """
    clock = asyncio.get_running_loop().time
    last_news, failures = clock(), 0
    while True:
        failure: TunefleetError | None = None
        progress.begin_stream()
        connection.channels.require_open()
        try:
            async with aclosing(messages_of(connection, open_stream(), kind)) as messages:
                async for message in messages:
                    changes = progress.take(message)
                    # The snapshot that opens every stream is no news by itself.
                    if changes or message.HasField("heartbeat"):
                        last_news, failures = clock(), 0
                    for change in changes:
                        yield change
                    if progress.is_done:
                        return
            progress.end_stream()
        except Hole:
            failure = progress.nothing_comes()
        except grpc.aio.AioRpcError as error:
            failure = connection.failure(error)
            if not is_worth_repeating(error) or is_handshake(error):
                raise failure from error
        if progress.is_done:
            return
        if clock() - last_news >= give_up_seconds:
            raise failure or progress.nothing_comes()
        failures += 1
        await asyncio.sleep(connection.backoff.seconds(failures))
