"""Open files that pass between processes of one user on one host, over a unix socket.

On one host the bytes of a blob need no network: whoever has a file open may pass that open file, and
the other side copies it once. A ticket, given out by a call that was checked as every other, ties what
passes here to who asked. The socket lies in the state folder, which only its owner may enter.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import stat
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tunefleet_core.errors import TunefleetError

__all__ = ["Handovers"]

_LOG = logging.getLogger(__name__)
_TICKET_SECONDS = 30.0
_MOST_TICKETS = 256
_TICKET_LENGTH = 64
_EXCHANGE_SECONDS = 1.0
"""One exchange at a time, so whoever connects and says nothing holds up others no longer than that."""


@dataclass(slots=True, kw_only=True)
class _Ticket:
    """A file that waits: to be taken if the ticket is for one, else it has still to be passed."""

    owner: str
    is_taking: bool
    descriptor: int = -1

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Handovers:
    """Tickets of one blobs process, and the socket where they are used. Lives on the event loop.

    Args:
        path: Where the socket shall be. If it cannot be there (the path of a socket has at most some
            hundred bytes), no ticket is given out, and blobs travel as pieces.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tickets: dict[str, _Ticket] = {}
        self._is_open = False

    def give(self, owner: str, descriptor: int | None = None) -> tuple[str, str]:
        """Return socket and ticket for a file: one to take, which this object then owns, or one to pass.

        Both are empty if no file can be handed over now.
        """
        if not self._is_open or len(self._tickets) >= _MOST_TICKETS:
            if descriptor is not None:
                os.close(descriptor)
            return "", ""
        ticket = secrets.token_hex(_TICKET_LENGTH // 2)
        self._tickets[ticket] = _Ticket(
            owner=owner,
            is_taking=descriptor is not None,
            descriptor=-1 if descriptor is None else descriptor,
        )
        asyncio.get_running_loop().call_later(_TICKET_SECONDS, self._forget, ticket)
        return str(self._path), ticket

    def redeem(self, ticket: str, owner: str, size_bytes: int) -> int:
        """Return the open file that was passed with a ticket; the caller closes it.

        Raises:
            TunefleetError: FIELD_INVALID if nothing was, or no regular file of this size.
        """
        found = self._tickets.get(ticket)
        if found is None or found.owner != owner or found.is_taking or found.descriptor < 0:
            raise TunefleetError.field("start.ticket", "no file was passed with it, or too long ago")
        del self._tickets[ticket]
        status = os.fstat(found.descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size_bytes:
            found.close()
            raise TunefleetError.field("start.ticket", f"what was passed is no file of {size_bytes} bytes")
        return found.descriptor

    async def serve(self) -> None:
        """Exchange tickets for files until cancelled."""
        async with self._listening() as listener:
            while listener is not None:
                try:
                    connection, _ = await asyncio.get_running_loop().sock_accept(listener)
                except OSError as error:  # out of files, for a moment
                    _LOG.warning("nobody can connect to %s now: %s", self._path, error)
                    await asyncio.sleep(_EXCHANGE_SECONDS)
                    continue
                with connection:
                    await self._answer(connection)
            await asyncio.Event().wait()

    @asynccontextmanager
    async def _listening(self) -> AsyncGenerator[socket.socket | None]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            try:
                self._path.unlink(missing_ok=True)  # of an earlier life
                listener.bind(str(self._path))
                self._path.chmod(0o600)
                listener.listen(64)
                listener.setblocking(False)
                self._is_open = True
            except OSError as error:
                _LOG.warning("no files can be handed over at %s: %s", self._path, error)
            try:
                yield listener if self._is_open else None
            finally:
                self._is_open = False
                for ticket in list(self._tickets):
                    self._forget(ticket)
                self._path.unlink(missing_ok=True)

    async def _answer(self, connection: socket.socket) -> None:
        try:
            async with asyncio.timeout(_EXCHANGE_SECONDS):
                said, descriptors = await _receive(connection)
            is_good = self._exchange(connection, said, descriptors)
            if not is_good:
                _close(descriptors)
                connection.send(b"\0")
        except OSError as error:  # it said nothing in time, or went away: its ticket passes
            _LOG.debug("a handover was broken off: %s", error)

    def _exchange(self, connection: socket.socket, said: str, descriptors: list[int]) -> bool:
        ticket = self._tickets.get(said)
        if ticket is None or len(descriptors) != (0 if ticket.is_taking else 1):
            return False
        if not ticket.is_taking:
            ticket.close()  # one that was passed before
            ticket.descriptor = descriptors[0]
            connection.send(b"\1")
            return True
        socket.send_fds(connection, [b"\1"], [ticket.descriptor])
        self._forget(said)
        return True

    def _forget(self, ticket: str) -> None:
        found = self._tickets.pop(ticket, None)
        if found is not None:
            found.close()


async def _receive(connection: socket.socket) -> tuple[str, list[int]]:
    """Return the ticket and the open files that came with it. Raises OSError."""
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection)
    said, descriptors, _, _ = socket.recv_fds(connection, _TICKET_LENGTH, 1)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return said.decode("ascii", "replace"), descriptors


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
