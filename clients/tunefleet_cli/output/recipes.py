"""How recipes look: a table of all, and the page of one."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markdown import Markdown

from tunefleet_cli.output.output import Output, printable
from tunefleet_cli.output.table import Column, Table
from tunefleet_core.recipes import JobRecipe

__all__ = ["show_recipe", "show_recipes"]


def show_recipes(output: Output, recipes: Sequence[JobRecipe]) -> None:
    """Print a list of recipes."""
    if output.is_json:
        output.document("tunefleet.Recipes", {"recipes": [_fields(recipe) for recipe in recipes]})
        return
    columns = [
        Column(title="RECIPE", style="accent"),
        Column(title="METHOD"),
        Column(title="WHAT", wraps=True),
        Column(title="BASE", rank=1),
    ]
    rows = [[recipe.name, recipe.method, recipe.summary, recipe.base] for recipe in recipes]
    output.table(Table(columns=columns, rows=rows, empty="No recipes.  tunefleet doctor"))
    if recipes:
        output.note(f"tunefleet recipes show {recipes[0].name}")


def show_recipe(output: Output, recipe: JobRecipe) -> None:
    """Print the page of a recipe: set for people, as it is written for pipes."""
    page = recipe.page()
    if output.is_json:
        files = [path.name for path in recipe.files()]
        output.document("tunefleet.Recipe", {**_fields(recipe), "files": files, "page": page})
        return
    if output.is_human:
        # Links lead nowhere at a terminal.
        output.show(Markdown(printable(page), hyperlinks=False))
        output.gap()
    else:
        output.line(page.rstrip("\n"))
    output.done(f"{recipe.name}: {recipe.summary}", next_step=f"tunefleet recipes use {recipe.name}")


def _fields(recipe: JobRecipe) -> dict[str, object]:
    return {
        "name": recipe.name,
        "title": recipe.title,
        "summary": recipe.summary,
        "method": recipe.method,
        "base": recipe.base,
        "rows": recipe.rows,
        "jobs": list(recipe.jobs),
    }
