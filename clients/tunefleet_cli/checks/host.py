"""Checks of this machine: its state folder, its ports, its environments, its disk."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tunefleet.fleet.v1.fleet_pb2 import Service
from tunefleet_cli.checks.place import Place
from tunefleet_cli.findings import Finding, Status
from tunefleet_cli.gateway_chat import trusting
from tunefleet_client import Reason, TunefleetError
from tunefleet_client.state import find_target, is_loopback, read_endpoints, read_token
from tunefleet_core.environments import Environment, EnvironmentIndex

__all__ = [
    "check_disk",
    "check_environments",
    "check_gateway_among",
    "check_gateway_of",
    "check_proxy",
    "check_state_folder",
    "check_supervisor",
    "check_token",
    "explain_absence",
]

_LITTLE_DISK_BYTES = 5 << 30
_NO_DISK_BYTES = 1 << 30
_GATEWAY_SECONDS = 5.0
_PORT_SECONDS = 1.0
_ENVIRONMENT_SECONDS = 60.0
_IMPORTS = "import tunefleet_core, grpc"


def check_state_folder(folder: Path, *, is_elsewhere: bool = False) -> Finding:
    """Check that the state folder is there, ours to write and nobody else's to read.

    Args:
        folder: The state folder.
        is_elsewhere: Whether commands go to a fleet of another machine, which need none here.
    """
    check = "state folder"
    try:
        if is_elsewhere and not folder.exists():
            return Finding(check=check, status="SKIPPED", text="none here: the fleet is elsewhere")
        if not folder.is_dir():
            return Finding(check=check, status="FAILED", text=f"{folder} does not exist", fix="tunefleet up")
        # A file is made, since permissions alone do not tell of a disk mounted read-only.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        fix = f"chown -R $(id -un) {folder} && chmod 700 {folder}"
        text = f"{folder} cannot be written: {error.strerror}"
        return Finding(check=check, status="FAILED", text=text, fix=fix)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        text = f"{folder} is open to others (mode {mode:04o})"
        return Finding(check=check, status="WARNING", text=text, fix=f"chmod 700 {folder}")
    return _ok(check, str(folder))


def check_token(place: Place) -> Finding:
    """Check the token that commands show."""
    if os.environ.get("TUNEFLEET_TOKEN"):
        return _ok("token", "from TUNEFLEET_TOKEN")
    if place.login is not None:
        return Finding(
            check="token", status=place.login.status, text="that of the login", fix=place.login.fix
        )
    if place.is_elsewhere:
        return Finding(
            check="token",
            status="FAILED",
            text="TUNEFLEET_ADDRESS names a coordinator whose token is not kept here",
            fix="export TUNEFLEET_TOKEN=..., or tunefleet login instead of both",
        )
    try:
        read_token(place.folder)
    except TunefleetError as error:
        return Finding(check="token", status="FAILED", text=error.message, fix=error.hint)
    return _ok("token", "present, readable by you alone")


def check_supervisor(place: Place) -> Finding:
    """Check whether a `tunefleet up` holds the state folder."""
    check = "up"
    if os.environ.get("TUNEFLEET_ADDRESS"):
        return Finding(check=check, status="SKIPPED", text="TUNEFLEET_ADDRESS names a coordinator")
    if place.is_elsewhere:
        return Finding(check=check, status="SKIPPED", text="the login names a coordinator")
    holder = _holder(place.folder)
    if holder is not None:
        return _ok(check, f"process {holder} holds the state folder")
    text = "no tunefleet up holds the state folder"
    return Finding(check=check, status="WARNING", text=text, fix="tunefleet up")


def explain_absence(place: Place, error: TunefleetError) -> Finding:
    """Say why there is no coordinator, as far as this machine tells: held, taken, or just not there."""
    check = "coordinator"
    plain = Finding(check=check, status="FAILED", text=error.message, fix=error.hint or "tunefleet up")
    if error.reason is not Reason.UNAVAILABLE:
        return plain
    try:
        address = find_target(folder=place.given).address
    except TunefleetError:
        return plain
    if is_loopback(address) and _listens(address):
        port = address.rpartition(":")[2]
        return Finding(
            check=check,
            status="FAILED",
            text=f"port {port} is taken: what listens at {address} is no coordinator",
            fix=f"Stop it (ss -ltnp 'sport = :{port}' names it), then: tunefleet up",
        )
    holder = None if place.is_elsewhere else _holder(place.folder)
    if holder is not None:
        log = place.folder / "logs" / "coordinator.log"
        return Finding(
            check=check,
            status="FAILED",
            text=f"{error.message} Process {holder} holds the state folder and should run one",
            fix=f"See {log}; to begin anew: kill {holder}, then tunefleet up",
        )
    return plain


def check_proxy() -> Finding:
    """Check that programs on this machine would not ask a proxy for loopback."""
    check = "proxy"
    proxies = [name for name in ("http", "https", "all") if name in urllib.request.getproxies_environment()]
    if not proxies:
        return _ok(check, "none is set")
    if all(urllib.request.proxy_bypass(host) for host in ("127.0.0.1", "localhost")):
        return _ok(check, "set, and left aside for this machine")
    return Finding(
        check=check,
        status="WARNING",
        text=f"{proxies[0]}_proxy is set for this machine too: clients of the gateway would ask the proxy",
        fix='export NO_PROXY="127.0.0.1,localhost,$NO_PROXY"',
    )


def check_gateway_of(folder: Path) -> Finding:
    """Check that the gateway of a state folder answers."""
    try:
        endpoints = read_endpoints(folder)
    except TunefleetError:
        return Finding(check="gateway", status="SKIPPED", text="no fleet was started here")
    if not endpoints.gateway:
        return Finding(check="gateway", status="WARNING", text="none is running", fix="tunefleet up")
    try:
        authority = (folder / endpoints.authority).read_bytes() if endpoints.authority else None
    except OSError as error:
        text = f"{folder / endpoints.authority} cannot be read: {error.strerror}"
        return Finding(check="gateway", status="FAILED", text=text, fix="tunefleet up (it writes it again)")
    return _ask_gateway(endpoints.gateway, authority, log=str(folder / "logs" / "gateway.log"))


def check_gateway_among(services: Sequence[Service], place: Place) -> Finding:
    """Check that a gateway of a fleet elsewhere answers, at the address that it tells."""
    addresses = [item.endpoints.get("openai", "").removesuffix("/v1") for item in services]
    url = next((address for address in addresses if address), "")
    if not url:
        fix = "On the coordinator's machine: tunefleet up"
        return Finding(check="gateway", status="WARNING", text="the fleet has none", fix=fix)
    authority = find_target(folder=place.given).authority
    return _ask_gateway(url, authority, log="the gateway's log on its machine")


def _ask_gateway(url: str, authority: bytes | None, *, log: str) -> Finding:
    check = "gateway"
    address = urlsplit(url)
    try:
        host, port = address.hostname or "", address.port
        connection = http.client.HTTPConnection(host, port, timeout=_GATEWAY_SECONDS)
        if address.scheme == "https":
            context = trusting(authority)
            connection = http.client.HTTPSConnection(host, port, timeout=_GATEWAY_SECONDS, context=context)
        connection.request("GET", "/health")
        status = connection.getresponse().status
        connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        text = f"{url} does not answer: {error}"
        return Finding(check=check, status="FAILED", text=text, fix=f"tunefleet up; if it runs, see {log}")
    if status != 200:
        return Finding(check=check, status="FAILED", text=f"{url}/health answers {status}", fix=f"See {log}.")
    return _ok(check, f"answers at {url}")


def check_environments(folder: Path) -> list[Finding]:
    """Check that the interpreter of every installed backend starts and finds the contract."""
    check = "environments"
    try:
        environments = EnvironmentIndex(folder).environments()
    except TunefleetError as error:
        return [Finding(check=check, status="FAILED", text=error.message, fix=error.hint)]
    broken = [(item, why) for item in environments if (why := _fault(item))]
    if broken:
        return [_broken(environment, why) for environment, why in broken]
    count = len(environments)
    return [_ok(check, f"{count} start{'s' if count == 1 else ''}" if count else "none besides our own")]


def check_disk(
    folder: Path, *, little_bytes: int = _LITTLE_DISK_BYTES, none_bytes: int = _NO_DISK_BYTES
) -> Finding:
    """Check the space where checkpoints and models go."""
    place = next(item for item in (folder, *folder.parents) if item.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / (1 << 30):.1f} GiB free at {place}"
    if free >= little_bytes:
        return _ok("disk", text)
    status: Status = "WARNING" if free >= none_bytes else "FAILED"
    fix = "tunefleet prune, free space, or use another state folder (TUNEFLEET_STATE)."
    return Finding(check="disk", status=status, text=text, fix=fix)


def _ok(check: str, text: str) -> Finding:
    return Finding(check=check, status="OK", text=text)


def _holder(folder: Path) -> int | None:
    """Return the process that holds the state folder, None if there is none.

    The lock itself is not tried: to take it for a moment could make a starting fleet give up.
    """
    try:
        pid = int(json.loads((folder / "up.lock").read_text())["pid"])
        words = " ".join(psutil.Process(pid).cmdline())
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, psutil.Error):
        return None
    return pid if "tunefleet" in words and " up" in words else None


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PORT_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def _fault(environment: Environment) -> str:
    """Return what is wrong with an environment; empty if nothing is."""
    if environment.is_host:
        return ""
    command = [environment.python, "-c", _IMPORTS]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_ENVIRONMENT_SECONDS, check=False
        )
    except OSError as error:
        return f"{environment.python} does not start: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"{environment.python} does not answer within {_ENVIRONMENT_SECONDS:.0f} s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"{environment.python} ends with {done.returncode}"


def _broken(environment: Environment, why: str) -> Finding:
    plugins = ", ".join(environment.plugins) or environment.digest[:12]
    first = environment.plugins[0] if environment.plugins else "NAME"
    folder = Path(environment.python).parent.parent
    return Finding(
        check="environments",
        status="FAILED",
        text=f"that of {plugins} is broken: {why}",
        # An environment that is marked complete is not built again.
        fix=f"rm -r {folder} && tunefleet plugins install {first}",
    )
