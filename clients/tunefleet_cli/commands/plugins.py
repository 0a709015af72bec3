"""`tunefleet plugins`: list, install, remove. A further verb is a line in `tree.py`."""

from __future__ import annotations

import click

from tunefleet_cli.arguments import limit_option
from tunefleet_cli.invocation import Invocation, command_options

__all__ = ["install_plugin", "list_plugins", "remove_plugin"]


@click.command()
@limit_option("plugins")
@command_options
def list_plugins(invocation: Invocation, limit: int) -> None:
    """List plugins and whether each works."""
    from tunefleet_cli.output.lists import PLUGINS

    invocation.show_list(PLUGINS, lambda client: client.catalog.plugins(limit=limit))


@click.command()
@click.argument("plugin", metavar="NAME|PATH")
@command_options
def install_plugin(invocation: Invocation, plugin: str) -> None:
    """Install a backend into an environment of its own.

    Running services find it by themselves.
    """
    from tunefleet_core.environments import install

    output = invocation.output()
    report = install(plugin, invocation.state_folder(), output.note)
    fields = {
        "plugin": report.plugin,
        "environment_digest": report.environment.digest,
        "was_ready": report.was_ready,
    }
    text = f"{report.plugin} {'was installed already' if report.was_ready else 'is installed'}."
    if output.is_json:
        output.document("tunefleet.PluginInstalled", fields)
    else:
        output.done(text, next_step="tunefleet plugins list")


@click.command()
@click.argument("plugin", metavar="NAME")
@command_options
def remove_plugin(invocation: Invocation, plugin: str) -> None:
    """Remove a backend, and its environment if no other uses it."""
    from tunefleet_cli.output.quantities import bytes_text
    from tunefleet_core.environments import remove

    output = invocation.output()
    report = remove(plugin, invocation.state_folder())
    if output.is_json:
        fields = {
            "plugin": report.plugin,
            "freed_bytes": report.freed_bytes,
            "shared_with": list(report.shared_with),
            "used_by": list(report.used_by),
        }
        output.document("tunefleet.PluginRemoved", fields)
        return
    if report.shared_with:
        output.note(f"Its environment stays: {', '.join(report.shared_with)} uses it.")
    if report.used_by:
        output.warning(
            f"{len(report.used_by)} processes still run from an environment that nobody needs.",
            hint="Its files go with the next install or removal after they have ended.",
        )
    freed = f"; {bytes_text(report.freed_bytes)} are free again" if report.freed_bytes else ""
    output.done(f"{plugin} is removed{freed}.", next_step="tunefleet plugins list")
