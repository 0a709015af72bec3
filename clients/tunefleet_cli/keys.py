"""Single keys from a terminal, without waiting for Enter."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["pressed"]


@contextmanager
def pressed(key: str) -> Generator[asyncio.Event]:
    """Set the event when a key is pressed, while the block runs.

    Without a terminal on stdin, or on a system without termios, it is never set.
    The terminal is put back as it was.
    """
    event = asyncio.Event()
    try:
        import termios
        import tty
    except ImportError:
        yield event
        return
    if not sys.stdin.isatty():
        yield event
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()

    def read() -> None:
        if key.encode() in os.read(descriptor, 64).lower():
            event.set()

    try:
        tty.setcbreak(descriptor)
        loop.add_reader(descriptor, read)
        yield event
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
