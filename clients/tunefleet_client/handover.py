"""Pass open files to the blobs process on this host, and take them from it.

Only works between processes of one user on one host. Wherever it does not, nothing is handed over and
the bytes travel as pieces.
"""

from __future__ import annotations

import asyncio
import os
import socket

from tunefleet_client.blob_calls import BlobCalls
from tunefleet_client.state import is_loopback
from tunefleet_core.errors import TunefleetError

__all__ = ["pass_file", "take_file"]

_EXCHANGE_SECONDS = 5.0


async def pass_file(calls: BlobCalls, descriptor: int) -> str:
    """Pass an open file; return the ticket that stands for it, or nothing if that is not possible."""
    path, ticket = await _ticket(calls, "")
    if not ticket:
        return ""
    done, _ = await _exchange(path, ticket, [descriptor])
    return ticket if done else ""


async def take_file(calls: BlobCalls, sha256: str) -> int | None:
    """Return a blob as an open file, which the caller closes, or None if that is not possible.

    Raises:
        TunefleetError: BLOB_NOT_FOUND.
    """
    path, ticket = await _ticket(calls, sha256)
    if not ticket:
        return None
    _, taken = await _exchange(path, ticket, [])
    return taken[0] if taken else None


async def _ticket(calls: BlobCalls, sha256: str) -> tuple[str, str]:
    if not is_loopback(calls.connection.address):
        return "", ""
    try:
        response = await calls.open_handover(sha256)
    except TunefleetError as error:
        if error.code == "UNIMPLEMENTED":  # an older blobs process
            return "", ""
        raise
    # An address that looks local may be the near end of a tunnel to another host.
    if not await asyncio.to_thread(os.path.exists, response.socket):
        return "", ""
    return response.socket, response.ticket


async def _exchange(path: str, ticket: str, descriptors: list[int]) -> tuple[bool, list[int]]:
    """Return whether the other side agreed, and the files it passed."""
    work = asyncio.get_running_loop().run_in_executor(None, _exchange_now, path, ticket, descriptors)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait((work,))
        for descriptor in work.result()[1]:
            os.close(descriptor)
        raise


def _exchange_now(path: str, ticket: str, descriptors: list[int]) -> tuple[bool, list[int]]:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_EXCHANGE_SECONDS)
            connection.connect(path)
            socket.send_fds(connection, [ticket.encode()], descriptors)
            said, taken, _, _ = socket.recv_fds(connection, 1, 1)
            for descriptor in taken:
                os.set_inheritable(descriptor, False)
            return said == b"\1", taken
    except OSError:  # nobody listens there, or it may not be entered: another host or user
        return False, []
