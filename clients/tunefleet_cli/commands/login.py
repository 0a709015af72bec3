"""`tunefleet login` and `logout`: use the fleet of another machine from here."""

from __future__ import annotations

import click

from tunefleet_cli.invocation import Invocation, command_options

__all__ = ["login", "logout"]


@click.command()
@click.argument("string", required=False)
@command_options
def login(invocation: Invocation, string: str | None) -> None:
    """Use the fleet of another machine from here on.

    STRING comes from `tunefleet tokens create NAME --login` there. Left out, it is asked for, or read from
    standard input: so no other user of this machine sees it in the list of processes.
    """
    from tunefleet_cli.pasting import pasted
    from tunefleet_client import connect
    from tunefleet_client.login import keep_login
    from tunefleet_core.invitations import Invitation, InvitationKind

    found = Invitation.read(string or pasted("Login string"), InvitationKind.LOGIN)

    async def ask() -> tuple[str, str]:
        async with connect(found.address, found.secret, authority=found.authority or None) as client:
            fleet = await client.fleet.info()
            return fleet.principal, fleet.role

    who, role = invocation.run(ask())  # nothing is kept that does not work
    path = keep_login(found)
    invocation.output().done(
        f"Logged in at {found.address} as {who} ({role}); kept in {path}.", next_step="tunefleet fleet list"
    )


@click.command()
@command_options
def logout(invocation: Invocation) -> None:
    """Forget the fleet of another machine. Its token stays good until it is revoked there."""
    from tunefleet_client.login import forget_login, login_file

    was_there = forget_login()
    text = f"{login_file()} is removed." if was_there else "There was no login here."
    invocation.output().done(text, next_step="tunefleet up, or tunefleet login")
