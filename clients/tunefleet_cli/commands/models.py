"""`tunefleet models`: what jobs produced."""

from __future__ import annotations

import click

from tunefleet_cli.arguments import allow_missing_option, limit_option, name_argument
from tunefleet_cli.fetching import fetch
from tunefleet_cli.invocation import Invocation, command_options

__all__ = ["delete_model", "fetch_model", "get_model", "list_models"]


@click.command()
@limit_option("models")
@command_options
def list_models(invocation: Invocation, limit: int) -> None:
    """List models, newest first."""
    from tunefleet_cli.output.lists import MODELS

    invocation.show_list(MODELS, lambda client: client.models.list(limit=limit))


@click.command()
@name_argument("models")
@command_options
def get_model(invocation: Invocation, name: str) -> None:
    """Show a model, its files and where it comes from."""
    from tunefleet_cli.output.sheets import show_model

    show_model(invocation.output(), invocation.ask(lambda client: client.models.get(name)))


@click.command()
@name_argument("models")
@allow_missing_option
@command_options
def delete_model(invocation: Invocation, name: str, allow_missing: bool) -> None:
    """Remove a model; its files go with the next prune."""
    from tunefleet.model.v1.model_service_pb2 import DeleteModelResponse
    from tunefleet_client import short_name

    invocation.ask(lambda client: client.models.delete(name, allow_missing=allow_missing))
    short = short_name(name)
    invocation.output().result(
        DeleteModelResponse(), name=short, text=f"Model {short} is removed.", next_step="tunefleet prune"
    )


@click.command()
@name_argument("models")
@click.argument("folder", required=False, type=click.Path(file_okay=False))
@command_options
def fetch_model(invocation: Invocation, name: str, folder: str | None) -> None:
    """Bring the files of a model into FOLDER (else one of its name, here).

    The folder appears whole or not at all; a fetch that was cut goes on where it stopped.
    """
    from tunefleet_client import short_name

    fetch(invocation, name, folder or short_name(name))
