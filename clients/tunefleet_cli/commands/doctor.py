"""`tunefleet doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

import click

from tunefleet_cli.exit_codes import FAILED
from tunefleet_cli.invocation import Invocation, command_options

__all__ = ["doctor"]


@click.command()
@click.option(
    "--bundle",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write logs, versions, settings and recent events to FILE (tar.gz), without secrets.",
)
@command_options
def doctor(invocation: Invocation, bundle: str | None) -> None:
    """Check the installation, each finding with its fix.

    Exit code 1 if a check failed; warnings alone leave it 0.
    """
    from pathlib import Path

    from tunefleet_cli.checks import check_all, find_place
    from tunefleet_cli.output.findings import show_findings

    place = find_place(invocation.state)
    findings = invocation.run(check_all(place))
    output = invocation.output()
    show_findings(output, findings)
    if bundle is not None:
        from tunefleet_cli.bundle import write_bundle

        file = Path(bundle).expanduser()
        names = invocation.run(write_bundle(file, place, findings))
        output.note(
            f"{file} has {len(names)} files, secrets taken out. Look before you send: tar -tzf {file}"
        )
    failed = [finding for finding in findings if finding.status == "FAILED"]
    if failed:
        if not output.is_json:
            count = f"{len(failed)} check{'s' if len(failed) != 1 else ''} failed."
            output.failed(count, next_step=failed[0].fix)
        raise click.exceptions.Exit(FAILED)
    if not output.is_json:
        output.done("Everything that is needed works.", next_step="tunefleet train FILE --follow")
