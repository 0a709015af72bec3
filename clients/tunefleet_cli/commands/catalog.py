"""`tunefleet catalog`: what the fleet can train and serve with."""

from __future__ import annotations

import click

from tunefleet_cli.arguments import limit_option
from tunefleet_cli.invocation import Invocation, command_options

__all__ = ["backends", "families", "formats", "matrix"]


@click.command()
@limit_option("backends")
@command_options
def backends(invocation: Invocation, limit: int) -> None:
    """List the backends of the fleet and what each can do."""
    from tunefleet_cli.output.lists import BACKENDS

    invocation.show_list(BACKENDS, lambda client: client.catalog.backends(limit=limit))


@click.command()
@limit_option("families")
@command_options
def families(invocation: Invocation, limit: int) -> None:
    """List the model families that are known."""
    from tunefleet_cli.output.lists import FAMILIES

    invocation.show_list(FAMILIES, lambda client: client.catalog.families(limit=limit))


@click.command()
@limit_option("formats")
@command_options
def formats(invocation: Invocation, limit: int) -> None:
    """List the quantisation formats: their size, and who trains on, writes and serves them."""
    from tunefleet_cli.output.lists import FORMATS

    invocation.show_list(FORMATS, lambda client: client.catalog.formats(limit=limit))


@click.command()
@click.option("--backend", "backends_asked", metavar="NAME", multiple=True, help="Only this backend.")
@click.option("--family", "families_asked", metavar="NAME", multiple=True, help="Only this model family.")
@click.option("--engine", "engines_asked", metavar="NAME", multiple=True, help="Only this engine.")
@command_options
def matrix(
    invocation: Invocation,
    backends_asked: tuple[str, ...],
    families_asked: tuple[str, ...],
    engines_asked: tuple[str, ...],
) -> None:
    """Show what combines with what: backend, adaptation, format, family, engine."""
    from tunefleet_cli.output.matrix import show_matrix

    found = invocation.ask(
        lambda client: client.catalog.combinations(
            backends=backends_asked,
            families=families_asked,
            # What the training refuses is said once, not of every engine.
            engines=("", *engines_asked) if engines_asked else (),
        )
    )
    show_matrix(invocation.output(), found)
