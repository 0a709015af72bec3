"""`tunefleet artifacts` and `tunefleet prune`: what runs leave behind."""

from __future__ import annotations

import click

from tunefleet_cli.arguments import age_seconds
from tunefleet_cli.exit_codes import FAILED
from tunefleet_cli.fetching import fetch
from tunefleet_cli.invocation import Invocation, command_options

__all__ = ["fetch_artifact", "get_artifact", "prune"]


@click.command()
@click.argument("digest")
@command_options
def get_artifact(invocation: Invocation, digest: str) -> None:
    """Show a manifest: its files and where they come from."""
    from tunefleet_cli.output.sheets import show_manifest

    show_manifest(invocation.output(), invocation.ask(lambda client: client.artifacts.manifest(digest)))


@click.command()
@click.argument("digest")
@click.argument("folder", type=click.Path(file_okay=False))
@command_options
def fetch_artifact(invocation: Invocation, digest: str, folder: str) -> None:
    """Bring the files of a manifest, such as a checkpoint's, into FOLDER."""
    fetch(invocation, digest, folder)


@click.command()
@click.option("--dry-run", is_flag=True, help="Show what would go and remove nothing.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option(
    "--older-than",
    metavar="AGE",
    callback=age_seconds,
    help="Only what was last needed this long ago, such as 12h or 7d (else 1d).",
)
@command_options
def prune(invocation: Invocation, dry_run: bool, yes: bool, older_than: float | None) -> None:
    """Remove what nothing needs any more, after showing it.

    Checkpoints of ended jobs, files that no model names, folders of ended runs.
    Never a model, never anything of a job that may still run.
    """
    import sys

    from tunefleet_cli.output.prune import pruned_text, show_prunable

    output = invocation.output()
    if not (dry_run or yes or (output.is_human and sys.stdin.isatty())):
        raise click.UsageError("Nobody is here to ask: add --yes to remove, or --dry-run to look.")
    if dry_run or not yes:
        found = invocation.ask(
            lambda client: client.artifacts.prune(older_than_seconds=older_than, validate_only=True)
        )
        show_prunable(output, found)
        if output.is_json:
            return
        if not found.items:
            output.done("Nothing needs to go.")
            return
        if dry_run:
            asked = click.get_current_context().params["older_than"]
            age = "" if asked is None else f" --older-than {asked:g}s"
            output.done(
                f"Nothing was removed; {pruned_text(found)} would go.", next_step=f"tunefleet prune{age}"
            )
            return
        if not click.confirm(f"Remove {pruned_text(found)}?", err=True):
            output.failed("Nothing was removed.")
            raise click.exceptions.Exit(FAILED)
    done = invocation.ask(lambda client: client.artifacts.prune(older_than_seconds=older_than))
    if output.is_json:
        output.message(done)
        return
    if yes:
        show_prunable(output, done)
    output.done(f"Removed {pruned_text(done)}.")
