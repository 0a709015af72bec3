"""`tunefleet fleet top`: what the fleet does right now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tunefleet_cli.invocation import Invocation, command_options

if TYPE_CHECKING:
    from tunefleet_cli.fleet_view import FleetWatcher
    from tunefleet_cli.output import Output
    from tunefleet_client import Client

__all__ = ["top"]


@click.command()
@click.option(
    "--interval", type=click.FloatRange(0.2), default=2.0, show_default=True, help="Seconds between looks."
)
@command_options
def top(invocation: Invocation, interval: float) -> None:
    """Show services, what each works on and how fast; q or Ctrl-C leaves.

    In a pipe, and with --json: one look.
    """
    from tunefleet_cli.fleet_view import FleetWatcher
    from tunefleet_cli.output.top import show_look
    from tunefleet_client import TunefleetError, find_target

    output = invocation.output()
    try:
        target = find_target(folder=invocation.state)
        token, authority = target.token, target.authority
    except TunefleetError:
        token, authority = (
            "",
            None,
        )  # without one, requests are not counted; the coordinator says what is wrong

    async def look(client: Client) -> None:
        watcher = FleetWatcher(client, token=token, authority=authority)
        if output.is_human:
            await _redraw(output, watcher, interval)
        else:
            show_look(output, await watcher.look())

    try:
        invocation.ask(look)
    except KeyboardInterrupt:
        if not output.is_human:
            raise


async def _redraw(output: Output, watcher: FleetWatcher, interval: float) -> None:
    """Draw until q is pressed. A coordinator that is away is said, and waited for."""
    import asyncio

    from tunefleet_cli.keys import pressed
    from tunefleet_cli.output.live import full_screen
    from tunefleet_cli.output.top import top_screen
    from tunefleet_client import Reason, TunefleetError

    keys = f"q or Ctrl-C leaves · every {interval:g} s"
    seen = await watcher.look()
    with full_screen(output) as live, pressed("q") as leaving:
        note = keys
        while not leaving.is_set():
            live.update(top_screen(output, seen, note=note, now=output.now().astimezone()), refresh=True)
            try:
                async with asyncio.timeout(interval):
                    await leaving.wait()
            except TimeoutError:
                pass
            try:
                seen, note = await watcher.look(), keys
            except TunefleetError as error:
                if error.reason not in (Reason.UNAVAILABLE, Reason.TIME_LIMIT):
                    raise
                note = f"⚠ {error.message}  This is the last look. q leaves"
