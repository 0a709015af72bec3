"""`tunefleet up`: a whole fleet on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import click

from tunefleet_cli.invocation import Invocation, command_options

__all__ = ["up"]

_COUNT = click.IntRange(min=0)
_GatewayValue: TypeAlias = int | tuple[str, ...] | None


@click.command()
@click.option("--state", metavar="DIR", help="State folder (else TUNEFLEET_STATE, else the default).")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. One that other machines reach turns TLS on.",
)
@click.option(
    "--public-name",
    "public_names",
    multiple=True,
    metavar="NAME",
    help="What other machines call this one, a name or an address; the first is told them, repeat it.",
)
@click.option("--tls", is_flag=True, help="TLS on loopback too.")
@click.option("--tls-cert", metavar="PEM", help="Own certificate for people (else one of the fleet's own).")
@click.option("--tls-key", metavar="PEM", help="Its key.")
@click.option("--tls-ca", metavar="PEM", help="What people check it by (else the last of its chain).")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="First of five ports: the API's; the third is the gateway's. 0: free ones, kept.",
)
@click.option(
    "--trainers", type=click.IntRange(0, 64), default=1, show_default=True, help="Trainers to start."
)
@click.option("--servers", type=click.IntRange(1, 64), default=1, show_default=True, help="Servers to start.")
@click.option(
    "--stop-seconds",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="How long a stop waits for jobs to save their state; 0: not at all.",
)
@click.option("--requests-per-minute", type=_COUNT, help="Of one API token at the gateway; 0: no bound.")
@click.option("--requests-at-once", type=_COUNT, help="Of one API token at the gateway; 0: no bound.")
@click.option("--max-in-flight", type=_COUNT, help="Requests that the gateway passes on at one time.")
@click.option("--max-body-mib", type=_COUNT, help="Longest request body that the gateway takes.")
@click.option("--max-file-mib", type=_COUNT, help="Longest file of rows that the gateway takes.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="Host that requests may name; repeat it.")
@click.option(
    "--allow-origin",
    multiple=True,
    metavar="ORIGIN",
    help="Origin whose pages may ask the gateway; repeat it.",
)
@command_options
def up(
    invocation: Invocation,
    state: str | None,
    host: str,
    port: int,
    trainers: int,
    servers: int,
    stop_seconds: float,
    public_names: tuple[str, ...],
    tls: bool,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
    **gateway: _GatewayValue,
) -> None:
    """Start coordinator, trainer, server and gateway here; Ctrl-C stops them all.

    Jobs that run save their state first, and go on from there with the next `up`; a second Ctrl-C
    stops at once. Bounds that are left out are the gateway's own, such as 16 MiB for a body.
    """
    from tunefleet_services.local import UpOptions, run_up

    folder = Path(state).expanduser() if state else invocation.state_folder()
    announce = invocation.output().note
    run_up(
        UpOptions(
            state_folder=folder,
            host=host,
            port=port,
            trainers=trainers,
            servers=servers,
            stop_seconds=stop_seconds,
            tls=tls,
            public_names=public_names,
            tls_cert=_path(tls_cert),
            tls_key=_path(tls_key),
            tls_ca=_path(tls_ca),
            gateway_options=tuple(_as_words(gateway)),
            announce=announce,
        )
    )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text).expanduser()


def _as_words(options: Mapping[str, _GatewayValue]) -> Iterator[str]:
    """Yield options as the gateway's own command line has them, where they are called the same."""
    for name, value in options.items():
        for word in value if isinstance(value, tuple) else () if value is None else (str(value),):
            yield f"--{name.replace('_', '-')}={word}"
