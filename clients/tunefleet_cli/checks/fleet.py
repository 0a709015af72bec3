"""Checks of the fleet, from what its coordinator tells."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tunefleet.catalog.v1.catalog_service_pb2 import Plugin
from tunefleet.fleet.v1.fleet_pb2 import Service, ServiceKind, ServiceState
from tunefleet.fleet.v1.fleet_service_pb2 import GetFleetResponse
from tunefleet_cli.findings import Finding, Status
from tunefleet_cli.output.quantities import bytes_text, duration_text
from tunefleet_client import Client, short_name
from tunefleet_core import __version__

__all__ = [
    "check_backends",
    "check_clock",
    "check_fleet_disk",
    "check_services",
    "check_versions",
]

_MOST_SKEW_SECONDS = 60.0
"""More than any lease: an attached service that was heard longer ago means that clocks differ."""


def check_versions(info: GetFleetResponse, services: Sequence[Service]) -> Finding:
    """Check that coordinator and services run the version of this command."""
    versions = {"coordinator": info.version, **{short_name(item.name): item.version for item in services}}
    others = {name: version for name, version in versions.items() if version and version != __version__}
    if others:
        named = ", ".join(f"{name} {version}" for name, version in sorted(others.items()))
        return Finding(
            check="versions",
            status="WARNING",
            text=f"this is {__version__}; {named}",
            fix="Upgrade the older side, then start it again.",
        )
    return Finding(check="versions", status="OK", text=f"{__version__} everywhere")


def check_clock(services: Sequence[Service]) -> Finding:
    """Check this machine's clock against the coordinator's, by when it last heard its services."""
    heard = [
        item.last_heard_time.seconds
        for item in services
        if item.state == ServiceState.SERVICE_STATE_ATTACHED and item.last_heard_time.seconds
    ]
    if not heard:
        return Finding(check="clock", status="SKIPPED", text="no service is attached to compare with")
    skew = time.time() - max(heard)
    if abs(skew) <= _MOST_SKEW_SECONDS:
        return Finding(check="clock", status="OK", text="agrees with the coordinator's")
    which = "ahead of" if skew > 0 else "behind"
    return Finding(
        check="clock",
        status="WARNING",
        text=f"this machine is {duration_text(abs(skew))} {which} the coordinator: ages and times mislead",
        fix="Set both clocks by NTP (timedatectl set-ntp true).",
    )


def check_services(services: Sequence[Service]) -> Finding:
    """Check that a trainer and a server are attached, none is lost and none drains forgotten."""
    attached = [item for item in services if item.state == ServiceState.SERVICE_STATE_ATTACHED]
    text = ", ".join(
        f"{count} {kind}{'s' if count != 1 else ''}" for kind, count in _by_kind(attached).items()
    )
    working = [item for item in attached if not item.is_draining]
    lost = [item for item in services if item.state == ServiceState.SERVICE_STATE_LOST]
    draining = [short_name(item.name) for item in attached if item.is_draining]
    if not _by_kind(attached)["trainer"]:
        fix = "tunefleet up (it starts a trainer), or see the trainer's log"
        if lost:
            fix = f"Start {short_name(lost[0].name)} again, or forget it: tunefleet fleet remove NAME"
        return _services("FAILED", f"{text} attached: no job can run", fix)
    if not _by_kind(working)["trainer"]:
        fix = f"tunefleet fleet undrain {draining[0]}"
        return _services("FAILED", f"{draining[0]} is draining: no job can start", fix)
    if lost:
        name = short_name(lost[0].name)
        fix = f"See its log and start it again, or: tunefleet fleet remove {name}"
        return _services("WARNING", f"{name} is lost; {text} attached", fix)
    if draining:
        fix = f"tunefleet fleet undrain {draining[0]}"
        return _services("WARNING", f"{draining[0]} gets no new work (draining)", fix)
    missing = [kind for kind in ("server", "gateway") if not _by_kind(attached)[kind]]
    if missing:
        return _services("WARNING", f"{text} attached", "tunefleet up (it starts both), or see their logs")
    return _services("OK", f"{text} attached", "")


async def check_backends(client: Client) -> Finding:
    """Check that a backend works and that none is broken."""
    backends = [plugin for plugin in await client.catalog.plugins() if plugin.kind == "backend"]
    broken = [plugin for plugin in backends if plugin.status in ("FAILED", "INCOMPATIBLE")]
    active = [plugin.name for plugin in backends if plugin.status == "ACTIVE"]
    if broken:
        return _broken(broken[0], is_fatal=not active)
    if not active:
        fix = "tunefleet plugins install trl"
        return Finding(check="backends", status="FAILED", text="none is installed", fix=fix)
    return Finding(check="backends", status="OK", text=", ".join(active))


def check_fleet_disk(info: GetFleetResponse) -> Finding:
    """Check that the coordinator has the space below which it refuses new work."""
    check = "fleet disk"
    if not info.disk_watermark_bytes:
        return Finding(check=check, status="SKIPPED", text="the coordinator has no limit")
    text = f"{bytes_text(info.disk_free_bytes)} free, {bytes_text(info.disk_watermark_bytes)} are needed"
    if info.disk_free_bytes >= info.disk_watermark_bytes:
        return Finding(check=check, status="OK", text=text)
    return Finding(check=check, status="FAILED", text=f"{text}: new work is refused", fix="tunefleet prune")


def _by_kind(services: Sequence[Service]) -> dict[str, int]:
    return {
        kind: sum(item.kind == value for item in services)
        for kind, value in (
            ("trainer", ServiceKind.SERVICE_KIND_TRAINER),
            ("server", ServiceKind.SERVICE_KIND_SERVER),
            ("gateway", ServiceKind.SERVICE_KIND_GATEWAY),
        )
    }


def _services(status: Status, text: str, fix: str) -> Finding:
    return Finding(check="services", status=status, text=text, fix=fix)


def _broken(plugin: Plugin, *, is_fatal: bool) -> Finding:
    return Finding(
        check="backends",
        status="FAILED" if is_fatal else "WARNING",
        text=f"{plugin.name}: {plugin.error}",
        fix=plugin.hint or f"tunefleet plugins install {plugin.name}",
    )
