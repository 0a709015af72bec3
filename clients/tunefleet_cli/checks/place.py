"""Where the commands of this machine go: to a fleet that runs here, or to one elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tunefleet_cli.findings import Finding
from tunefleet_client import TunefleetError, state_folder
from tunefleet_client.login import login_file, read_login
from tunefleet_client.state import read_endpoints

__all__ = ["Place", "find_place"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What the doctor looks at.

    Attributes:
        given: The state folder that was named on the command line, if any: what a client is opened with.
        folder: The state folder in use, whether it is there or not.
        is_elsewhere: Whether commands go to a fleet whose state folder this is not.
        login: What was found of a login; None if none is used.
    """

    given: str | None
    folder: Path
    is_elsewhere: bool = False
    login: Finding | None = None


def find_place(given: str | None = None) -> Place:
    """Return where commands go, in the order of `tunefleet_client.connect`.

    Args:
        given: `--state`, if it was given.
    """
    folder = state_folder(given)
    address = os.environ.get("TUNEFLEET_ADDRESS")
    if address:
        return Place(given=given, folder=folder, is_elsewhere=address != _address_in(folder))
    if given or os.environ.get("TUNEFLEET_STATE") or not login_file().exists():
        return Place(given=given, folder=folder)
    return Place(given=given, folder=folder, is_elsewhere=True, login=_check_login())


def _address_in(folder: Path) -> str:
    try:
        return read_endpoints(folder).user
    except TunefleetError:
        return ""


def _check_login() -> Finding:
    try:
        kept = read_login()
    except TunefleetError as error:
        return Finding(check="login", status="FAILED", text=error.message, fix=error.hint)
    text = f"at {kept.address}, kept in {login_file()}" if kept else "gone"
    return Finding(check="login", status="OK", text=text)
