"""`tunefleet fleet`: the services that work."""

from __future__ import annotations

import click

from tunefleet_cli.arguments import limit_option, name_argument
from tunefleet_cli.invocation import Invocation, command_options

__all__ = ["drain", "get_service", "info", "list_services", "remove", "undrain"]


@click.command()
@limit_option("services")
@command_options
def list_services(invocation: Invocation, limit: int) -> None:
    """List services, their devices and their backends."""
    from tunefleet_cli.output.lists import SERVICES

    invocation.show_list(SERVICES, lambda client: client.fleet.list(limit=limit))


@click.command()
@name_argument("services")
@command_options
def get_service(invocation: Invocation, name: str) -> None:
    """Show a service, its devices and its backends."""
    from tunefleet_cli.output.sheets import show_service

    show_service(invocation.output(), invocation.ask(lambda client: client.fleet.get(name)))


@click.command()
@command_options
def info(invocation: Invocation) -> None:
    """Show versions, addresses and limits of the fleet."""
    from tunefleet_cli.output.sheets import show_fleet

    show_fleet(invocation.output(), invocation.ask(lambda client: client.fleet.info()))


@click.command()
@name_argument("services")
@command_options
def drain(invocation: Invocation, name: str) -> None:
    """Give a service no new work; what it holds goes on to its end."""
    from tunefleet_client import short_name

    service = invocation.ask(lambda client: client.fleet.drain(name))
    short = short_name(service.name)
    holds = f"; it still holds {len(service.holds)}" if service.holds else ""
    invocation.output().result(
        service,
        name=short,
        text=f"{short} gets no new work{holds}.",
        next_step=f"tunefleet fleet undrain {short}",
    )


@click.command()
@name_argument("services")
@command_options
def undrain(invocation: Invocation, name: str) -> None:
    """Let a drained service take work again."""
    from tunefleet_client import short_name

    service = invocation.ask(lambda client: client.fleet.undrain(name))
    short = short_name(service.name)
    invocation.output().result(
        service, name=short, text=f"{short} takes work again.", next_step="tunefleet fleet top"
    )


@click.command()
@name_argument("services")
@command_options
def remove(invocation: Invocation, name: str) -> None:
    """Forget a service that is LOST, or end one of another machine.

    The certificate of one that has joined ends at once, and its session with it.
    """
    from tunefleet.fleet.v1.fleet_service_pb2 import RemoveServiceResponse
    from tunefleet_client import short_name

    invocation.ask(lambda client: client.fleet.remove(name))
    short = short_name(name)
    invocation.output().result(
        RemoveServiceResponse(), name=short, text=f"{short} is forgotten.", next_step="tunefleet fleet list"
    )
