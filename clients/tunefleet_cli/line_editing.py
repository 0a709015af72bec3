"""Arrow keys and a history for `input()`, where the system has readline."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tunefleet_cli.chat_session import COMMANDS

__all__ = ["line_history"]

_MOST_LINES = 1000


@contextmanager
def line_history(file: Path) -> Generator[None]:
    """Give `input()` editing, the lines of earlier times and completion of commands.

    Args:
        file: Keeps the lines, readable by the user alone: what people ask is private.
    """
    try:
        import readline
    except ImportError:  # Windows, and Pythons built without it
        yield
        return
    readline.clear_history()
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(_MOST_LINES)
    readline.set_completer_delims("")
    readline.set_completer(_complete)
    is_libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
            readline.write_history_file(file)
            file.chmod(0o600)


def _complete(text: str, state: int) -> str | None:
    found = [name for name in COMMANDS if text and name.startswith(text)]
    return found[state] + " " if state < len(found) else None
