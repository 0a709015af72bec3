"""`tunefleet trainer`, `server` and `gateway`: a service of a fleet on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tunefleet_cli.invocation import Invocation, command_options

if TYPE_CHECKING:
    from tunefleet_services.joining import Membership

__all__ = ["gateway", "server", "trainer"]


def _command(kind: str) -> click.Command:
    @click.command(
        name=kind,
        context_settings={"ignore_unknown_options": True},
        help=f"""Run a {kind} here, for a fleet on another machine.

        The first time it joins, with the string that `tunefleet fleet tokens create --kind {kind}`
        told there; then it has a certificate of its own, and needs none. Further OPTIONS are those
        of `python -m tunefleet_services.{kind} --help`.
        """,
    )
    @click.option("--join", metavar="STRING", help="Join with this string.")
    @click.option("--join-file", metavar="FILE", help="The same, in a file; `-` asks for it.")
    @click.option(
        "--name", metavar="NAME", help=f"The service to be (else {kind}-HOST, or what it has joined as)."
    )
    @click.option("--state", metavar="DIR", help="State folder (else TUNEFLEET_STATE, else the default).")
    @click.argument("options", nargs=-1, type=click.UNPROCESSED)
    @command_options
    def run(
        invocation: Invocation,
        join: str | None,
        join_file: str | None,
        name: str | None,
        state: str | None,
        options: tuple[str, ...],
    ) -> None:
        folder = Path(state).expanduser() if state else invocation.state_folder()
        text = _read(join, join_file)
        membership = (
            _member(folder, kind, name) if text is None else _join(invocation, text, folder, kind, name)
        )
        _become(kind, folder, membership, options)

    return run


def _read(join: str | None, join_file: str | None) -> str | None:
    from tunefleet_cli.pasting import pasted
    from tunefleet_client.errors import at_path

    if join is not None and join_file is not None:
        raise click.UsageError("--join and --join-file say the same: give one.")
    if join_file == "-":
        return pasted("Join string")
    if join_file is not None:
        path = Path(join_file).expanduser()
        with at_path(path):
            return path.read_text(encoding="utf-8")
    return join


def _member(folder: Path, kind: str, name: str | None) -> Membership:
    from tunefleet_services.joining import find_membership

    return find_membership(folder, kind, name)


def _join(invocation: Invocation, text: str, folder: Path, kind: str, name: str | None) -> Membership:
    from tunefleet_core.invitations import Invitation, InvitationKind
    from tunefleet_services.joining import join_fleet, usual_name

    invitation = Invitation.read(text, InvitationKind.JOIN)
    chosen = name or invitation.service or usual_name(kind)
    membership = invocation.run(join_fleet(invitation, folder, kind=kind, name=chosen))
    invocation.output().done(
        f"This machine is {chosen} of the fleet at {invitation.address}.",
        next_step=f"After a stop: tunefleet {kind}",
    )
    return membership


def _become(kind: str, folder: Path, membership: Membership, options: tuple[str, ...]) -> None:
    """Go on as the service itself: the string that it joined with is in no list of processes any more."""
    import os
    import sys

    words = ["--member", str(membership.folder), "--state", str(folder.absolute()), *options]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", f"tunefleet_services.{kind}", *words])


trainer = _command("trainer")
server = _command("server")
gateway = _command("gateway")
