"""`tunefleet completion SHELL`: the script that completes commands and names."""

from __future__ import annotations

import click

from tunefleet_cli.invocation import Invocation, command_options

__all__ = ["completion"]

_VARIABLE = "_TUNEFLEET_COMPLETE"
_PLACES = {
    "bash": "~/.local/share/bash-completion/completions/tunefleet",
    "zsh": "~/.zfunc/_tunefleet",
    "fish": "~/.config/fish/completions/tunefleet.fish",
}
_ALSO = {
    "bash": "bash-completion loads it with the next shell; without it: source that file in ~/.bashrc",
    "zsh": "~/.zshrc needs once, before compinit: fpath+=~/.zfunc",
    "fish": "fish loads it with the next shell",
}


@click.command()
@click.argument("shell", type=click.Choice(list(_PLACES)))
@command_options
def completion(invocation: Invocation, shell: str) -> None:
    """Print the completion script for SHELL and say where to put it.

    Names of jobs, models and so on are asked of the coordinator, for a second at most.
    """
    from click.shell_completion import get_completion_class

    from tunefleet_cli.main import cli

    made = get_completion_class(shell)
    assert made is not None
    script = made(cli, {}, "tunefleet", _VARIABLE).source()
    output = invocation.output()
    if output.is_json:
        output.document("tunefleet.Completion", {"shell": shell, "path": _PLACES[shell], "script": script})
        return
    output.line(script.rstrip())
    output.note(f"Put it into {_PLACES[shell]}:")
    output.note(f"  mkdir -p {_PLACES[shell].rpartition('/')[0]}")
    output.note(f"  tunefleet completion {shell} -q > {_PLACES[shell]}")
    output.note(_ALSO[shell])
