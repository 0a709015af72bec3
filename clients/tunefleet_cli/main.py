"""The entry point: options of every command, and one way to end.

`tunefleet --help` must feel instant, so this module imports click and the tree,
and the tree imports nothing before it is called.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from tunefleet_cli.exit_codes import FAILED, INTERRUPTED, USAGE
from tunefleet_cli.tree import RootGroup

__all__ = ["cli", "main"]


@click.group(
    cls=RootGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="First steps:  tunefleet up   ·   tunefleet plan FILE   ·   tunefleet train FILE --follow",
)
@click.option("--state", metavar="DIR", help="State folder of the fleet (else TUNEFLEET_STATE).")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def cli(context: click.Context, state: str | None, debug: bool) -> None:
    """Fine-tune open language models and serve the result."""
    context.obj = {"state": state, "debug": debug}


def main() -> NoReturn:
    """Run the command line and exit with one of the documented codes."""
    # gRPC's own remarks about connections that were cut would stand between our lines.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        code: object = cli.main(standalone_mode=False, prog_name="tunefleet")
    except click.UsageError as error:
        _show_usage(error)
        sys.exit(USAGE)
    except click.ClickException as error:
        error.show()
        sys.exit(FAILED)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _show_usage(error: click.UsageError) -> None:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message())
        return
    path = error.ctx.command_path if error.ctx else "tunefleet"
    click.echo(f"✗ {error.format_message()}  (USAGE)", err=True)
    click.echo(f"  Next step:  {path} --help", err=True)
