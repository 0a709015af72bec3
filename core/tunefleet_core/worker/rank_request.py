"""What travels between a host and the parent that its rank processes are forked from.

A request is a line of JSON beside five descriptors: the ends of the pipe from and to the host, standard
output, standard error, and a leash, whose other end only the host holds. The answer is `{"pid": N}` beside a
descriptor of the process, or `{"refused": "why"}`; when the process has ended, `{"exit": N}` follows.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunefleet_core.worker.marker import MARKER

__all__ = ["HANDED", "UNFORKABLE", "RankRequest", "listen", "own_environment", "parent_command"]

HANDED = 5
"""How many descriptors come with a request."""

_OF_THE_MOMENT = frozenset({MARKER, "COLUMNS", "LINES", "PYTEST_CURRENT_TEST"})
"""Variables that differ from process to process and that no import looks at: marker, screen, test."""

UNFORKABLE = 3
"""Exit code of a parent whose libraries do not survive a fork."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRequest:
    """Who asks for a rank process.

    Attributes:
        mark: The marker that the process is to carry; empty: its parent's.
        environment: Variables of whoever asks, as `own_environment` gives them. Libraries read them
            when they are imported, so with others than the parent's own no process is made.
    """

    mark: str
    environment: Mapping[str, str]

    def pack(self) -> bytes:
        """Return the line that travels beside the descriptors."""
        return json.dumps({"mark": self.mark, "environment": dict(self.environment)}).encode() + b"\n"


def parent_command(python: str, entry: str, listener: int) -> list[str]:
    """Return the command that starts a parent, given the descriptor of the socket that it is asked on.

    Who makes the socket can tell of it at once: who asks early waits for the imports.
    The parent serves while its standard input is open. Its environment has a marker of its own.
    """
    return [
        python,
        "-m",
        "tunefleet_core.worker.rank_parent",
        "--entry",
        entry,
        "--listen-fd",
        str(listener),
    ]


def listen(path: Path) -> socket.socket:
    """Return a socket that listens there."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    return listener


def own_environment() -> dict[str, str]:
    """Return the variables of this process that libraries may read when they are imported."""
    return {name: value for name, value in os.environ.items() if name not in _OF_THE_MOMENT}
