"""Choose TCP ports for processes that are still to be started.

Whoever starts a server has to name its port before the server binds it. A port that the
kernel hands out for `bind(0)` comes from the range it also takes for outgoing
connections, so between the two moments any connection of the host may take it. The ports
chosen here lie below that range (RFC 6335, section 6; Linux begins at 32768), and at
random, so that two choosers at one moment seldom meet. The server's own bind stays the
real check.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Collection
from typing import Final

__all__ = ["free_ports", "is_free_port"]

_CANDIDATES: Final = range(15_000, 32_000)
_TRIES: Final = 2_000
_CHANCE = random.SystemRandom()


def free_ports(count: int = 1, *, host: str = "127.0.0.1", taken: Collection[int] = ()) -> list[int]:
    """Return different ports that can be bound on a host at this moment.

    Args:
        count: how many.
        host: an address of this machine.
        taken: ports that are promised to others though nobody listens there yet.

    Raises:
        OSError: the host is no address of this machine, or hardly a port of it is free.
    """
    ports: list[int] = []
    refusal: OSError | None = None
    for _ in range(_TRIES):
        if len(ports) == count:
            return ports
        port = _CHANCE.choice(_CANDIDATES)
        if port in taken or port in ports:
            continue
        try:
            _bind(host, port)
        except OSError as error:
            refusal = error
        else:
            ports.append(port)
    raise refusal or OSError(f"Fewer than {count} ports of {host} are free.")


def is_free_port(host: str, port: int) -> bool:
    """Whether a port can be bound at this moment."""
    try:
        _bind(host, port)
    except OSError:
        return False
    return True


def _bind(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
