"""The fleet of another machine that this user is logged in at: one file of the user's own configuration."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tunefleet_client.errors import at_path, failure, typed
from tunefleet_core.artifacts import write_whole_file
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.invitations import Invitation, InvitationKind

__all__ = ["forget_login", "keep_login", "login_file", "read_login"]


def login_file() -> Path:
    """Return where the login is kept: below XDG_CONFIG_HOME, else `~/.config`."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "tunefleet" / "login"


def read_login() -> Invitation | None:
    """Return the login; None if there is none.

    Raises:
        TunefleetError: TOKEN_INVALID if others can read the file, FIELD_INVALID if it is spoilt.
    """
    path = login_file()
    if not path.exists():
        return None
    with at_path(path):
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="utf-8", errors="replace")  # what is no text is no whole string
    if mode & 0o077:
        raise failure(
            Reason.TOKEN_INVALID,
            f"Others on this machine can read the login at {path} (mode {mode:04o}).",
            hint=f"chmod 600 {path}",
            metadata={"path": str(path), "mode": f"{mode:04o}"},
        )
    try:
        return Invitation.read(text, InvitationKind.LOGIN)
    except TunefleetError as error:
        raise typed(error) from error


def keep_login(invitation: Invitation) -> Path:
    """Keep a login, which replaces an older one; the file is its owner's alone (0600)."""
    path = login_file()
    with at_path(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole_file(path, f"{invitation}\n".encode(), mode=0o600)
    return path


def forget_login() -> bool:
    """Forget the login; return whether there was one."""
    path = login_file()
    with at_path(path):
        is_there = path.exists()
        path.unlink(missing_ok=True)
    return is_there
