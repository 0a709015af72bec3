"""`tunefleet fleet tokens`: with what processes on other machines join."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tunefleet_cli.arguments import age_seconds, allow_missing_option, limit_option
from tunefleet_cli.invocation import Invocation, command_options

if TYPE_CHECKING:
    from tunefleet.fleet.v1.fleet_service_pb2 import CreateJoinTokenResponse

__all__ = ["tokens"]

_KINDS = ("trainer", "server", "gateway")


@click.group()
def tokens() -> None:
    """Tokens with which services of other machines join."""


@tokens.command(name="list")
@limit_option("tokens")
@command_options
def list_tokens(invocation: Invocation, limit: int) -> None:
    """List those that can still be used, without their secrets."""
    from tunefleet_cli.output.lists import JOIN_TOKENS

    invocation.show_list(JOIN_TOKENS, lambda client: client.join_tokens.list(limit=limit))


@tokens.command(name="create")
@click.option("--kind", type=click.Choice(_KINDS), required=True, help="What may join.")
@click.option("--name", default="", metavar="NAME", help="The service that it must join as (else any).")
@click.option(
    "--expires",
    metavar="AGE",
    default="15m",
    show_default=True,
    callback=age_seconds,
    help="How long it lives, such as 15m or 12h.",
)
@click.option(
    "--uses", type=click.IntRange(1, 1000), default=1, show_default=True, help="How often it can be used."
)
@click.option(
    "--public-name",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Of a gateway: what clients and servers call its machine; repeat it.",
)
@command_options
def create_token(
    invocation: Invocation, kind: str, name: str, expires: float, uses: int, hosts: tuple[str, ...]
) -> None:
    """Make a string with which a service of another machine joins, and tell it once.

    The string goes to standard output, alone when it is a pipe; with --json it is `join_string`.
    """
    from datetime import timedelta

    from tunefleet_client import Client, short_name
    from tunefleet_core.invitations import Invitation, InvitationKind

    output = invocation.output()

    async def make(client: Client) -> tuple[CreateJoinTokenResponse, Invitation]:
        fleet = await client.fleet.info()
        made = await client.join_tokens.create(
            kind, service=name, ttl=timedelta(seconds=expires), uses=uses, hosts=hosts
        )
        invitation = Invitation(
            kind=InvitationKind.JOIN,
            address=fleet.user_address or client.address,
            secret=made.secret,
            authority=fleet.authority.encode(),
            service=name.removeprefix("services/"),
        )
        return made, invitation

    made, invitation = invocation.ask(make)
    if output.is_json:
        output.message(made, join_string=str(invitation))
        return
    output.line(str(invitation))
    times = "once" if uses == 1 else f"{uses} times"
    output.done(
        f"With the string above a {kind} can join {times}. It is never told again.",
        next_step=f"On the other machine: tunefleet {kind} --join-file -, and paste it",
    )
    output.note(
        f"To end it before its time: tunefleet fleet tokens revoke {short_name(made.join_token.name)}"
    )


@tokens.command(name="revoke")
@click.argument("name")
@allow_missing_option
@command_options
def revoke_token(invocation: Invocation, name: str, allow_missing: bool) -> None:
    """End a token at once. Services that joined with it stay."""
    from tunefleet.fleet.v1.fleet_service_pb2 import RevokeJoinTokenResponse
    from tunefleet_client import short_name

    invocation.ask(lambda client: client.join_tokens.revoke(name, allow_missing=allow_missing))
    short = short_name(name)
    invocation.output().result(
        RevokeJoinTokenResponse(),
        name=short,
        text=f"Join token {short} is ended.",
        next_step="tunefleet fleet tokens list",
    )
