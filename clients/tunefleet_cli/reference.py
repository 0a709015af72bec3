"""The page docs/cli.md, written from the tree of commands.

python -m tunefleet_cli.reference          write it
python -m tunefleet_cli.reference --check  exit 1 if it is not fresh
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from tunefleet_cli.main import cli

__all__ = ["reference"]

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
_EVERYWHERE = ("is_json", "is_plain", "is_quiet")
_HEAD = """\
# The terminal client

<!-- Written by `python -m tunefleet_cli.reference` from the tree of commands; do not edit. -->

`tunefleet <noun> <verb>`, the nouns of the API, and short cuts for what is done daily.

| for | a command prints |
|---|---|
| a person at a terminal | colour, tables that fit, live views; `NO_COLOR` takes the colour, symbols stay |
| a pipe, or `--plain` | aligned columns or a line per event, no escape codes, nothing cut |
| a program, `--json` | one JSON document `{"schema", "kind", "data"}`; streams: one per line. `kind` is the \
full name of a proto message, `data` has its field names; `tokens create` adds the strings to paste |

Data goes to standard output, everything else to standard error. `--quiet` leaves out all but data and errors.
Names may be short: `tickets-ab12` for `projects/default/jobs/tickets-ab12`. Ctrl-C detaches from what is
followed, it never stops a job.

| exit code | means |
|---|---|
| 0 | it worked |
| 1 | it failed; also: a followed job did not succeed, a check failed |
| 2 | wrong use |
| 3 | not found |
| 4 | the coordinator or a needed service does not answer |
| 130 | interrupted with Ctrl-C; what was followed goes on |

`tunefleet --state DIR` or `TUNEFLEET_STATE` names another state folder; `TUNEFLEET_ADDRESS`,
`TUNEFLEET_TOKEN` and `TUNEFLEET_CA` another coordinator; `tunefleet login` keeps one for good.
`tunefleet --debug` shows tracebacks.
`tunefleet completion bash|zsh|fish` prints a script that completes commands and names.
"""


def reference() -> str:
    """Return the page."""
    return "".join(f"{line}\n" for line in [_HEAD.rstrip(), *_commands()])


def _commands() -> Iterator[str]:
    root = click.Context(cli, info_name="tunefleet")
    shortcuts: list[str] = []
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=root)
        if not isinstance(command, click.Group):
            shortcuts += _command(command, context)
            continue
        yield from ("", f"## {name}", "", command.help or "")
        for verb in command.list_commands(context):
            below = command.get_command(context, verb)
            assert below is not None
            inner = click.Context(below, info_name=verb, parent=context)
            if not isinstance(below, click.Group):
                yield from _command(below, inner)
                continue
            for name_below, last in below.commands.items():
                yield from _command(last, click.Context(last, info_name=name_below, parent=inner))
    yield from ("", "## Short cuts", *shortcuts)


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    arguments = [item for item in command.params if isinstance(item, click.Argument)]
    words = " ".join(item.make_metavar(context) for item in arguments)
    yield from ("", f"### `{f'{context.command_path} {words}'.rstrip()}`", "")
    yield " ".join((command.help or "").replace("\b", "").split())
    options = [
        item for item in command.params if isinstance(item, click.Option) and item.name not in _EVERYWHERE
    ]
    if options:
        yield from ("", *(_option(item, context) for item in options))


def _option(option: click.Option, context: click.Context) -> str:
    record = option.get_help_record(context)
    names, text = record if record is not None else (option.opts[0], "")
    return f"- `{names}`" + (f": {' '.join(text.split())}" if text else "")


def _main() -> None:
    page = reference()
    if "--check" not in sys.argv:
        _PAGE.write_text(page, encoding="utf-8")
    elif not _PAGE.is_file() or _PAGE.read_text(encoding="utf-8") != page:
        sys.exit(f"{_PAGE} is not fresh: python -m tunefleet_cli.reference")


if __name__ == "__main__":
    _main()
