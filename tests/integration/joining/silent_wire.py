"""A TCP proxy that can fall silent as a network does: nothing arrives any more, and no connection ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

__all__ = ["SilentWire"]

_PIECE_BYTES = 64 * 1024


class SilentWire:
    """Carries connections to an address. Made by `SilentWire.to`."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._silent, self._ended = asyncio.Event(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = ""

    @classmethod
    @asynccontextmanager
    async def to(cls, address: str) -> AsyncGenerator[SilentWire]:
        """Carry connections to an address while the block runs."""
        wire = cls(address)
        server = await asyncio.start_server(wire._take, "127.0.0.1", 0)
        wire.address = f"localhost:{server.sockets[0].getsockname()[1]}"
        try:
            yield wire
        finally:
            server.close()
            wire.cut()
            wire._ended.set()
            await asyncio.gather(*wire._tasks)

    def cut(self) -> None:
        """Carry nothing more of the connections that there are; new ones are carried as before."""
        self._silent.set()
        self._silent = asyncio.Event()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        silent = self._silent
        there_reader, there_writer = await asyncio.open_connection(self._host, self._port)
        try:
            async with asyncio.TaskGroup() as group:
                pipes = [
                    group.create_task(_pipe(reader, there_writer)),
                    group.create_task(_pipe(there_reader, writer)),
                ]
                cut = group.create_task(silent.wait())
                await asyncio.wait((*pipes, cut), return_when=asyncio.FIRST_COMPLETED)
                for pipe in (*pipes, cut):
                    pipe.cancel()
            if silent.is_set():
                await self._ended.wait()  # both ends stay open until the test ends
        finally:
            for end in (writer, there_writer):
                end.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_PIECE_BYTES):
            writer.write(data)
            await writer.drain()
