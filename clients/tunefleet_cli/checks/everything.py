"""Run every check; those that need a coordinator are skipped without one."""

from __future__ import annotations

from tunefleet_cli.checks import fleet, host
from tunefleet_cli.checks.members import check_members
from tunefleet_cli.checks.place import Place
from tunefleet_cli.findings import Finding
from tunefleet_client import TunefleetError, connect

__all__ = ["check_all"]

_NEED_COORDINATOR = ("versions", "clock", "services", "backends", "fleet disk")


async def check_all(place: Place) -> list[Finding]:
    """Return what every check found."""
    folder = place.folder
    findings = [
        *([place.login] if place.login else []),
        host.check_state_folder(folder, is_elsewhere=place.is_elsewhere),
        host.check_token(place),
        host.check_supervisor(place),
        host.check_proxy(),
    ]
    gateway = host.check_gateway_of(folder)
    try:
        async with connect(state_folder=place.given) as client:
            info = await client.fleet.info()
            services = await client.fleet.list()
            findings.append(Finding(check="coordinator", status="OK", text=f"answers at {client.address}"))
            findings += [
                fleet.check_versions(info, services),
                fleet.check_clock(services),
                fleet.check_services(services),
                await fleet.check_backends(client),
                fleet.check_fleet_disk(info),
            ]
            if place.is_elsewhere:
                gateway = host.check_gateway_among(services, place)
    except TunefleetError as error:
        findings.append(host.explain_absence(place, error))
        findings += [
            Finding(check=check, status="SKIPPED", text="needs a coordinator") for check in _NEED_COORDINATOR
        ]
        if place.is_elsewhere:
            gateway = Finding(check="gateway", status="SKIPPED", text="needs a coordinator")
    return [
        *findings,
        gateway,
        *check_members(folder),
        *host.check_environments(folder),
        host.check_disk(folder),
    ]
