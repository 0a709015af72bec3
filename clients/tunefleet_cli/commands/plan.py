"""`tunefleet plan FILE`: what would run, and why."""

from __future__ import annotations

import click

from tunefleet_cli.invocation import Invocation, command_options

__all__ = ["plan"]


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Change a field.")
@command_options
def plan(invocation: Invocation, file: str, overrides: tuple[str, ...]) -> None:
    """Resolve FILE as `train` would, and start nothing.

    Shows every value that was decided for you with its reason, which tokens
    carry loss, and the memory it will take.
    """
    from tunefleet_cli.output.plan import show_plan
    from tunefleet_cli.overrides import read_job

    spec = read_job(file, overrides)

    response = invocation.ask(lambda client: client.jobs.plan(spec))
    output = invocation.output()
    show_plan(output, response)
    if not output.is_json:
        output.gap()
        changes = "".join(f" --set {item}" for item in overrides)
        output.done("Nothing was started.", next_step=f"tunefleet train {file}{changes} --follow")
