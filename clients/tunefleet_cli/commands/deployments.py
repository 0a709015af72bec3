"""`tunefleet deployments`: what is served."""

from __future__ import annotations

import click

from tunefleet_cli.arguments import allow_missing_option, limit_option, name_argument
from tunefleet_cli.invocation import Invocation, command_options

__all__ = ["delete", "get_deployment", "list_deployments", "scale"]


@click.command()
@limit_option("deployments")
@command_options
def list_deployments(invocation: Invocation, limit: int) -> None:
    """List deployments, newest first."""
    from tunefleet_cli.output.lists import DEPLOYMENTS

    invocation.show_list(DEPLOYMENTS, lambda client: client.deployments.list(limit=limit))


@click.command()
@name_argument("deployments")
@command_options
def get_deployment(invocation: Invocation, name: str) -> None:
    """Show a deployment and what the train-to-serve contract found."""
    from tunefleet_cli.output.sheets import show_deployment

    show_deployment(invocation.output(), invocation.ask(lambda client: client.deployments.get(name)))


@click.command()
@name_argument("deployments")
@click.argument("replicas", type=click.IntRange(1, 100))
@command_options
def scale(invocation: Invocation, name: str, replicas: int) -> None:
    """Say how many engines serve a deployment.

    New ones take traffic once they are loaded and checked; those too many
    end the requests that they have.
    """
    from tunefleet_cli.output.states import ready_replicas
    from tunefleet_client import short_name

    deployment = invocation.ask(lambda client: client.deployments.scale(name, replicas))
    short = short_name(deployment.name)
    text = f"{short} takes traffic with {ready_replicas(deployment)} replicas. {deployment.reason}".rstrip()
    invocation.output().result(
        deployment, name=short, text=text, next_step=f"tunefleet deployments get {short}"
    )


@click.command()
@name_argument("deployments")
@allow_missing_option
@command_options
def delete(invocation: Invocation, name: str, allow_missing: bool) -> None:
    """Take a deployment down."""
    from tunefleet_client import short_name

    deployment = invocation.ask(lambda client: client.deployments.delete(name, allow_missing=allow_missing))
    short = short_name(deployment.name or name)
    invocation.output().result(
        deployment, name=short, text=f"{short} is taken down.", next_step="tunefleet deployments list"
    )
