"""`tunefleet recipes`: tested job files to start from. No fleet is asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from tunefleet_cli.invocation import Invocation, command_options

if TYPE_CHECKING:
    from tunefleet_core.recipes import JobRecipe

__all__ = ["list_recipes", "show", "use"]


def _complete(_context: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [
        CompletionItem(recipe.name, help=recipe.title)
        for recipe in _installed()
        if recipe.name.startswith(incomplete)
    ]


def _installed() -> list[JobRecipe]:
    """Return the recipes of every plugin of this environment, by name."""
    from tunefleet_core.plugins import load_plugins

    return sorted(load_plugins().recipes(), key=lambda recipe: recipe.name)


@click.command()
@command_options
def list_recipes(invocation: Invocation) -> None:
    """List the recipes: what each is for, its method and its base."""
    from tunefleet_cli.output.recipes import show_recipes

    show_recipes(invocation.output(), _installed())


@click.command()
@click.argument("name", shell_complete=_complete)
@command_options
def show(invocation: Invocation, name: str) -> None:
    """Show the page of a recipe: rows, memory, what goes wrong, how to judge it."""
    from tunefleet_cli.output.recipes import show_recipe
    from tunefleet_core.recipes import find_recipe

    show_recipe(invocation.output(), find_recipe(_installed(), name))


@click.command()
@click.argument("name", shell_complete=_complete)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write it. Default: ./NAME")
@click.option("--base", metavar="MODEL", default="", help="Start from this model instead.")
@command_options
def use(invocation: Invocation, name: str, folder: Path | None, base: str) -> None:
    """Write the job files and example rows of a recipe into a folder.

    Nothing is overwritten, and nothing is sent to the fleet.
    """
    from tunefleet_core.recipes import find_recipe
    from tunefleet_core.recipes.filling import use_recipe

    recipe = find_recipe(_installed(), name)
    target = folder or Path(name)
    written = use_recipe(recipe, target, base=base)
    output = invocation.output()
    if output.is_json:
        files = [str(path) for path in written]
        output.document("tunefleet.RecipeWritten", {"recipe": name, "folder": str(target), "files": files})
        return
    for path in written:
        output.line(str(path))
    output.done(
        f"{recipe.title}: {len(written)} files are written.", next_step=f"tunefleet plan {written[0]}"
    )
