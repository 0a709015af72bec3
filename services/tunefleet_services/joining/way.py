"""How a service finds its coordinator: on this machine with a token, elsewhere with a certificate."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from tunefleet_core.process import read_token
from tunefleet_services.joining.membership import Membership

__all__ = ["Way", "add_way", "way_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """The way to a coordinator, and who comes.

    Attributes:
        name: The service.
        address: Listener for services, `host:port`.
        token: The token of this machine's services; empty with a membership.
        membership: What a service of another machine has.
    """

    name: str
    address: str
    token: str = ""
    membership: Membership | None = None


def add_way(parser: argparse.ArgumentParser, *, name: str) -> None:
    """Add the options that say it. `name` is the usual name of the service."""
    parser.add_argument("--address", default="", help="the coordinator's service listener, HOST:PORT")
    parser.add_argument("--token-file", type=Path)
    parser.add_argument(
        "--member",
        type=Path,
        metavar="DIR",
        help="what joining a fleet elsewhere has left, instead of --address, --token-file and --name",
    )
    parser.add_argument("--name", default=name)


def way_of(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Way:
    """Return what the options say; ends the program if they do not fit together.

    Raises:
        TunefleetError: CERTIFICATE_INVALID if the certificate's time is over.
    """
    if arguments.member is not None:
        membership = Membership(arguments.member.absolute())
        membership.require_time_left()
        return Way(name=membership.name, address=membership.service_address, membership=membership)
    if not arguments.address or arguments.token_file is None:
        parser.error("--address and --token-file, or --member, must be given")
    return Way(name=arguments.name, address=arguments.address, token=read_token(arguments.token_file))
