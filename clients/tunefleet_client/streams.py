"""The messages of one stream that a coordinator keeps alive with heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from tunefleet_client.calls import Connection

__all__ = ["messages_of"]

_SILENCE_SECONDS = 45.0
"""Three heartbeats: a stream that is silent for longer leads nowhere any more."""
_Message = TypeVar("_Message")


async def messages_of(connection: Connection, call: Any, kind: type[_Message]) -> AsyncGenerator[_Message]:
    """Yield the messages of a stream to its end. A silent one ends as if it had been cut.

    Args:
        connection: Whose channel the call is on.
        call: A call of grpc.aio with a stream of answers; it is cancelled in the end.
        kind: What its messages are; grpc.aio's end of a stream is none of them.

    Raises:
        grpc.aio.AioRpcError: The stream broke off, or was refused.
    """
    try:
        while True:
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    response = await call.read()
            except TimeoutError:
                return
            except asyncio.CancelledError:
                connection.raise_if_closed_beneath()
                raise
            if not isinstance(response, kind):
                return
            yield response
    finally:
        call.cancel()
