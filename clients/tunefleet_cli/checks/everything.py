"""Run every check; those that need a coordinator are skipped without one."""

from __future__ import annotations

from pathlib import Path

from tunefleet_cli.checks import fleet, host
from tunefleet_cli.findings import Finding
from tunefleet_client import TunefleetError, connect

__all__ = ["check_all"]

_NEED_COORDINATOR = ("versions", "clock", "services", "backends")


async def check_all(folder: Path) -> list[Finding]:
    """Return what every check found."""
    findings = [
        host.check_state_folder(folder),
        host.check_token(folder),
        host.check_supervisor(folder),
        host.check_proxy(),
    ]
    try:
        async with connect(state_folder=folder) as client:
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
    except TunefleetError as error:
        findings.append(host.explain_absence(folder, error))
        findings += [
            Finding(check=check, status="SKIPPED", text="needs a coordinator") for check in _NEED_COORDINATOR
        ]
    return [
        *findings,
        host.check_gateway(folder),
        *host.check_environments(folder),
        host.check_disk(folder),
    ]
