"""Run a gateway: `python -m tunefleet_services.gateway --address HOST:PORT --state DIR --port N`."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from tunefleet_core.process import ending_clearly, run_process
from tunefleet_core.rpc import ListenerTls, read_pem
from tunefleet_services.gateway.service import Gateway, GatewayOptions
from tunefleet_services.gateway.settings import GatewaySettings
from tunefleet_services.joining import Membership, add_way, way_of

_MIB = 1024 * 1024
_USUAL = GatewaySettings()
_BOUNDS = (
    ("--requests-per-minute", 0, "requests of one API token in a minute; 0: no bound"),
    ("--requests-at-once", 0, "requests of one API token at one time; 0: no bound"),
    ("--max-in-flight", _USUAL.max_in_flight, "requests passed on at one time, of all tokens"),
    ("--max-body-mib", _USUAL.max_body_bytes // _MIB, "longest request body, MiB"),
    ("--max-file-mib", _USUAL.max_file_bytes // _MIB, "longest file of rows, MiB"),
)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_way(parser, name="gateway")
    parser.add_argument("--state", type=Path, required=True, help="state folder of this machine")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind")
    parser.add_argument("--port", type=int, default=0, help="port to bind; 0 takes a free one")
    parser.add_argument("--inference-port", type=int, default=0, help="gRPC port; 0 takes a free one")
    parser.add_argument(
        "--user-address", default="", help="the coordinator's user listener, HOST:PORT: who fine-tunes"
    )
    parser.add_argument(
        "--user-authority",
        type=Path,
        metavar="PEM",
        help="what the user listener's certificate is checked by",
    )
    parser.add_argument("--tls-cert", type=Path, metavar="PEM", help="certificate of both doors")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")
    parser.add_argument("--public-name", default="", metavar="NAME", help="what others call this machine")
    parser.add_argument("--relay-port", type=int, default=0, help="port for servers of other machines")
    parser.add_argument(
        "--relay-certificates",
        type=Path,
        metavar="DIR",
        help="server.pem, server.key and authority.pem of that port; left out: there is none",
    )
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="may be repeated")
    parser.add_argument(
        "--allow-origin", action="append", default=[], metavar="ORIGIN", help="may be repeated"
    )
    for name, default, text in _BOUNDS:
        parser.add_argument(name, type=_count, default=default, metavar="N", help=text)
    arguments = parser.parse_args()
    with ending_clearly():
        way = way_of(parser, arguments)
    member = way.membership
    hosts = member.hosts if member else ()
    options = GatewayOptions(
        name=way.name,
        address=way.address,
        token=way.token,
        membership=way.membership,
        state_folder=arguments.state.absolute(),
        host=arguments.host,
        port=arguments.port,
        inference_port=arguments.inference_port,
        user_address=arguments.user_address or (member.user_address if member else ""),
        user_authority=_user_authority(arguments.user_authority, member),
        tls=_doors(arguments, member),
        public_name=arguments.public_name or next(iter(hosts), ""),
        relay_port=arguments.relay_port,
        relay_tls=_relays(arguments, member),
        settings=GatewaySettings(
            allowed_hosts=frozenset((*arguments.allow_host, *hosts)),
            allowed_origins=frozenset(arguments.allow_origin),
            max_in_flight=arguments.max_in_flight,
            max_body_bytes=arguments.max_body_mib * _MIB,
            max_file_bytes=arguments.max_file_mib * _MIB,
            requests_per_minute=arguments.requests_per_minute,
            requests_at_once=arguments.requests_at_once,
        ),
    )

    async def work(group: asyncio.TaskGroup) -> None:
        await Gateway(options).run()

    run_process(work)


def _user_authority(file: Path | None, member: Membership | None) -> bytes:
    if file is not None:
        return read_pem(file, "user-authority")
    return member.user_authority if member else b""


def _doors(arguments: argparse.Namespace, member: Membership | None) -> ListenerTls | None:
    """Return what both doors show: the operator's certificate, else that of a gateway that has hosts."""
    if arguments.tls_cert:
        return ListenerTls.read(arguments.tls_cert, arguments.tls_key)
    return member.listener_tls(asks=False) if member and member.hosts else None


def _relays(arguments: argparse.Namespace, member: Membership | None) -> ListenerTls | None:
    folder: Path | None = arguments.relay_certificates
    if folder is not None:
        return ListenerTls.read(
            folder / "server.pem", folder / "server.key", client_authority=folder / "authority.pem"
        )
    return member.listener_tls(asks=True) if member and member.hosts else None


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return count


if __name__ == "__main__":
    main()
