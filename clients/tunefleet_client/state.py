"""Where the coordinator is and which token it takes.

`tunefleet up` leaves both in its state folder, so that on its own machine
nobody configures anything; on another machine `tunefleet login` keeps them, see
`login`. A token found there is only ever sent to the address found there: typing
another address must not hand it to a stranger.
"""

from __future__ import annotations

import ipaddress
import json
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from tunefleet_client.errors import at_path, failure
from tunefleet_client.login import read_login
from tunefleet_core.errors import Reason, TunefleetError

__all__ = [
    "Endpoints",
    "Target",
    "find_target",
    "is_loopback",
    "read_endpoints",
    "read_token",
    "state_folder",
]

ENDPOINTS_FILE = "endpoints.json"
TOKEN_FILE = "admin.token"
_START = "tunefleet up, or pass an address (TUNEFLEET_ADDRESS)."


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Addresses of a running fleet, as its state folder names them.

    Attributes:
        user: `host:port` of the coordinator's listener for users.
        service: `host:port` of its listener for services.
        gateway: Base URL of the OpenAI gateway; empty if there is none.
        authority: File, below the folder, of what their certificates are checked by; empty: no TLS.
    """

    user: str
    service: str
    gateway: str
    authority: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A coordinator and the token to show it.

    Attributes:
        address: `host:port`.
        token: API token.
        authority: What its certificate is checked by, PEM; None: nothing is known of TLS there.
        gateway: Base URL of its gateway, if that is known without asking.
    """

    address: str
    token: str
    authority: bytes | None = None
    gateway: str = ""


def state_folder(folder: str | Path | None = None) -> Path:
    """Return the state folder: argument, TUNEFLEET_STATE, XDG_STATE_HOME, the default."""
    given = folder or os.environ.get("TUNEFLEET_STATE")
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "tunefleet"


def read_endpoints(folder: Path) -> Endpoints:
    """Read the addresses that `tunefleet up` wrote.

    Raises:
        TunefleetError: UNAVAILABLE if there are none, or they cannot be read.
    """
    path = folder / ENDPOINTS_FILE
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise failure(
            Reason.UNAVAILABLE,
            f"No coordinator is known: {folder} has no {ENDPOINTS_FILE}.",
            hint=_START,
            metadata={"path": str(path)},
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise failure(
            Reason.UNAVAILABLE, f"{path} cannot be read: {error}", hint=_START, metadata={"path": str(path)}
        ) from error
    return _endpoints(content, path)


def _endpoints(content: object, path: Path) -> Endpoints:
    values = cast("dict[str, object]", content if isinstance(content, dict) else {})
    given = {name: values.get(name) for name in ("user", "service", "gateway", "authority")}
    texts = {name: value for name, value in given.items() if isinstance(value, str)}
    if not texts.get("user"):
        raise failure(
            Reason.UNAVAILABLE, f"{path} names no 'user' address.", hint=_START, metadata={"path": str(path)}
        )
    return Endpoints(
        user=texts["user"],
        service=texts.get("service", ""),
        gateway=texts.get("gateway", "").rstrip("/"),
        authority=texts.get("authority", ""),
    )


def read_token(folder: Path) -> str:
    """Read the admin token.

    Raises:
        TunefleetError: TOKEN_INVALID if it is missing, empty, or readable by others.
    """
    path = folder / TOKEN_FILE
    metadata = {"path": str(path)}
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        token = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise failure(
            Reason.TOKEN_INVALID,
            f"There is no token at {path}.",
            hint="tunefleet up, or set TUNEFLEET_TOKEN.",
            metadata=metadata,
        ) from None
    except (OSError, ValueError) as error:
        raise failure(
            Reason.TOKEN_INVALID,
            f"The token at {path} cannot be read: {error}",
            hint=f"Run as the owner of {folder}.",
            metadata=metadata,
        ) from error
    if mode & 0o077:
        raise failure(
            Reason.TOKEN_INVALID,
            f"Others on this machine can read the token at {path} (mode {mode:04o}).",
            hint=f"chmod 600 {path}",
            metadata={**metadata, "mode": f"{mode:04o}"},
        )
    if not token or "\n" in token:
        raise failure(
            Reason.TOKEN_INVALID,
            f"{path} is not one line with a token.",
            hint="Remove it and start tunefleet up again; it writes a new one.",
            metadata=metadata,
        )
    return token


def find_target(
    address: str | None = None, token: str | None = None, folder: str | Path | None = None
) -> Target:
    """Return the address and token to use: arguments, environment, a state folder that was named, the login,
    the usual state folder.

    Raises:
        TunefleetError: UNAVAILABLE if no address is known, TOKEN_INVALID if no token is.
    """
    given = address or os.environ.get("TUNEFLEET_ADDRESS")
    secret = (token or os.environ.get("TUNEFLEET_TOKEN") or "").strip()
    known = _known(folder, given)
    if given and (known is None or known.address != given):
        if not secret:
            raise failure(
                Reason.TOKEN_INVALID,
                f"There is no token for {given}.",
                hint="Set TUNEFLEET_TOKEN; the tokens that are kept here belong to other coordinators.",
                metadata={"address": given},
            )
        return Target(address=given, token=secret)
    if known is None:
        known = _of_folder(state_folder(folder))  # raises, with what is missing there
    return replace(known, token=secret or known.token or read_token(state_folder(folder)))


def _known(folder: str | Path | None, given: str | None) -> Target | None:
    """Return the coordinator that this machine knows, its token empty where a state folder has it.

    With an address the one that has it, if any. None: there is none.
    """
    found: list[Target] = []
    if not folder and not os.environ.get("TUNEFLEET_STATE"):
        kept = read_login()
        if kept is not None:
            found.append(Target(address=kept.address, token=kept.secret, authority=kept.authority or None))
    try:
        if not found or given:
            found.append(_of_folder(state_folder(folder)))
    except TunefleetError:
        if not given and not found:
            raise
    return next((target for target in found if given in (None, target.address)), None)


def _of_folder(folder: Path) -> Target:
    endpoints = read_endpoints(folder)
    authority = None
    if endpoints.authority:
        path = folder / endpoints.authority
        with at_path(path):
            authority = path.read_bytes()
    return Target(address=endpoints.user, token="", authority=authority, gateway=endpoints.gateway)


def is_loopback(address: str) -> bool:
    """Return whether `host:port` can only be this machine.

    Names other than `localhost` are not looked up: what a name means can change
    between the question and the call.
    """
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]") or address
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
