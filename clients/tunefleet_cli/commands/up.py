"""`tunefleet up`: a whole fleet on this machine."""

from __future__ import annotations

import click

from tunefleet_cli.invocation import Invocation, command_options

__all__ = ["up"]


@click.command()
@click.option("--state", metavar="DIR", help="State folder (else TUNEFLEET_STATE, else the default).")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port for users; 0: a free one.")
@click.option(
    "--trainers", type=click.IntRange(0, 64), default=1, show_default=True, help="Trainers to start."
)
@command_options
def up(invocation: Invocation, state: str | None, host: str, port: int, trainers: int) -> None:
    """Start coordinator, trainer, server and gateway here; Ctrl-C stops them all."""
    from pathlib import Path

    from tunefleet_services.local import UpOptions, run_up

    folder = Path(state).expanduser() if state else invocation.state_folder()
    announce = invocation.output().note
    run_up(UpOptions(state_folder=folder, host=host, port=port, trainers=trainers, announce=announce))
