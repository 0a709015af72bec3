"""`tunefleet tokens`: who may call this fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tunefleet_cli.arguments import age_seconds, allow_missing_option, limit_option, name_argument
from tunefleet_cli.invocation import Invocation, command_options

if TYPE_CHECKING:
    from tunefleet.fleet.v1.fleet_service_pb2 import CreateTokenResponse

__all__ = ["create_token", "list_tokens", "revoke_token"]

_ROLES = ("admin", "operator", "user", "viewer")


@click.command()
@limit_option("tokens")
@command_options
def list_tokens(invocation: Invocation, limit: int) -> None:
    """List tokens, without their secrets."""
    from tunefleet_cli.output.lists import TOKENS

    invocation.show_list(TOKENS, lambda client: client.tokens.list(limit=limit))


@click.command()
@click.argument("name")
@click.option("--role", type=click.Choice(_ROLES), default="user", show_default=True)
@click.option("--project", default="", metavar="NAME", help="The project it is bound to (else all).")
@click.option("--ttl", metavar="AGE", callback=age_seconds, help="How long it lives, such as 12h or 30d.")
@click.option(
    "--login",
    "is_login",
    is_flag=True,
    help="Tell a string for `tunefleet login` on another machine instead of the bare secret.",
)
@command_options
def create_token(
    invocation: Invocation, name: str, role: str, project: str, ttl: float | None, is_login: bool
) -> None:
    """Make a token and tell its secret, once.

    The secret goes to standard output, alone when it is a pipe. With --json it is `secret`, and the string
    for `tunefleet login` is `login_string`.
    """
    from datetime import timedelta

    from tunefleet_client import Client, short_name
    from tunefleet_core.invitations import Invitation, InvitationKind

    output = invocation.output()
    life = None if ttl is None else timedelta(seconds=ttl)

    async def make(client: Client) -> tuple[CreateTokenResponse, str]:
        fleet = await client.fleet.info()
        made = await client.tokens.create(name, role=role, project=project, ttl=life)
        login = Invitation(
            kind=InvitationKind.LOGIN,
            address=fleet.user_address or client.address,
            secret=made.secret,
            authority=fleet.authority.encode(),
        )
        return made, str(login)

    made, login = invocation.ask(make)
    if output.is_json:
        output.message(made, login_string=login)
        return
    output.line(login if is_login else made.secret)
    short = short_name(made.token.name)
    if is_login:
        output.done(
            f"With the string above others use this fleet as {short}, a {role}. It is never told again.",
            next_step="On the other machine: tunefleet login, and paste it",
        )
        return
    output.done(
        f"Token {short} may do what a {role} may. Its secret is above and is never told again.",
        next_step=f"TUNEFLEET_TOKEN=… tunefleet jobs list; to end it: tunefleet tokens revoke {short}",
    )


@click.command()
@name_argument("tokens")
@allow_missing_option
@command_options
def revoke_token(invocation: Invocation, name: str, allow_missing: bool) -> None:
    """End a token at once, at gateways too."""
    from tunefleet.fleet.v1.fleet_service_pb2 import RevokeTokenResponse
    from tunefleet_client import short_name

    invocation.ask(lambda client: client.tokens.revoke(name, allow_missing=allow_missing))
    short = short_name(name)
    invocation.output().result(
        RevokeTokenResponse(), name=short, text=f"Token {short} is ended.", next_step="tunefleet tokens list"
    )
