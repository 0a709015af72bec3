"""`tunefleet version`: versions of this command and of what it speaks."""

from __future__ import annotations

import click

from tunefleet_cli.invocation import Invocation, command_options

__all__ = ["version"]


@click.command()
@command_options
def version(invocation: Invocation) -> None:
    """Show versions."""
    import platform
    from importlib.metadata import version as version_of

    from tunefleet_core import CONTRACT_VERSION, __version__

    versions = {
        "tunefleet": __version__,
        "contract": str(CONTRACT_VERSION),
        "python": platform.python_version(),
        "grpcio": version_of("grpcio"),
        "protobuf": version_of("protobuf"),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    output = invocation.output()
    if output.is_json:
        output.document("tunefleet.Version", versions)
    else:
        output.facts(list(versions.items()))
