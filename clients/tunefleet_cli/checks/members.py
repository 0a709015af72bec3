"""Checks of what this machine keeps as a member of fleets elsewhere."""

from __future__ import annotations

from pathlib import Path

from tunefleet_cli.findings import Finding
from tunefleet_cli.output.quantities import duration_text
from tunefleet_core.errors import TunefleetError
from tunefleet_services.joining import Membership, memberships

__all__ = ["check_members"]


def check_members(folder: Path) -> list[Finding]:
    """Check every certificate with which a service of this machine belongs to a fleet; none: nothing.

    Args:
        folder: State folder of this machine.
    """
    return [_check(membership) for membership in memberships(folder)]


def _check(membership: Membership) -> Finding:
    try:
        kind, name = membership.kind, membership.name
        membership.channel_tls()
    except TunefleetError as error:
        return Finding(check="member", status="FAILED", text=error.message, fix=error.hint)
    left = membership.seconds_left()
    if left <= 0:
        text = f"the certificate of {name} has ended {duration_text(-left)} ago"
        fix = f"Join again: tunefleet fleet tokens create --kind {kind} at the coordinator's machine"
        return Finding(
            check="member", status="FAILED", text=text, fix=f"{fix}, tunefleet {kind} --join-file -"
        )
    text = f"{name} at {membership.service_address}, certificate good for {duration_text(left)}"
    if membership.seconds_to_renewal() > 0:
        return Finding(check="member", status="OK", text=text)
    text = f"{text}: due to be renewed, which it does while it runs"
    return Finding(check="member", status="WARNING", text=text, fix=f"tunefleet {kind} --name {name}")
