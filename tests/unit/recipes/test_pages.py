"""What a recipe's page says is what its job files would do."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import planning
import pytest

from tunefleet_core.recipes import JobRecipe, own_recipes
from tunefleet_core.resolve.lint import lint
from tunefleet_core.resolve.recipe import Recipe

RECIPES = {recipe.name: recipe for recipe in own_recipes()}
REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "recipes.md"
SECTIONS = (
    "When not",
    "Rows",
    "Bases that fit",
    "Planned memory",
    "What usually goes wrong",
    "How to judge the result",
    "What plan says",
)
ABOVE = """\
# Recipes

Job files to start from, each with a page and a few rows: `tunefleet recipes show NAME`, `tunefleet
recipes use NAME`. Written by `tests/unit/recipes` from the recipes and the planner; the jobs of each run in
miniature in `test_recipes.py` of its backend. No times are given: none were measured on these devices.

| recipe | method | base | rows | smallest device that fits: planned peak |
|---|---|---|---|---|
"""
_DEVICES = [name for place in planning.PLACES.values() for name in place.devices]
BELOW = f"""
Devices asked: {"; ".join(_DEVICES)}. A plan fits up to 85 % of the memory. Bases are planned
from their published shapes (`tests/unit/recipes/bases`), not from measurements.
"""
_MAY_WRITE = bool(os.environ.get("UPDATE_GOLDEN"))


def section(recipe: JobRecipe, title: str) -> str:
    return re.split(r"^## .*$", recipe.page().partition(f"## {title}\n")[2], maxsplit=1, flags=re.M)[0]


@pytest.mark.parametrize("name", RECIPES)
def test_a_page_has_every_part(name: str) -> None:
    recipe = RECIPES[name]
    assert re.findall(r"^## (.*)$", recipe.page(), flags=re.M) == list(SECTIONS)
    assert recipe.page().startswith(f"# {recipe.title}\n")
    assert recipe.rows in section(recipe, "Rows"), "the list and the page ask for as many rows"
    assert all(section(recipe, title).strip() for title in SECTIONS)
    assert "tunefleet eval models/" in section(recipe, "How to judge the result")


@pytest.mark.parametrize("name", RECIPES)
def test_the_memory_on_a_page_is_what_the_planner_plans(name: str) -> None:
    recipe = RECIPES[name]
    page = (recipe.folder / "page.md").read_text()  # with the comments that say where it is
    planned = planning.planned_section(recipe)
    begin, end = page.index(planning.BEGIN), page.index(planning.END) + len(planning.END)
    if _MAY_WRITE:
        (recipe.folder / "page.md").write_text(page[:begin] + planned + page[end:])
        return
    assert page[begin:end] == planned, "UPDATE_GOLDEN=1 writes it anew"


@pytest.mark.parametrize("name", RECIPES)
def test_the_example_on_a_page_has_the_fields_of_the_rows(name: str) -> None:
    recipe = RECIPES[name]
    examples = re.findall(r"```json\n(.*?)\n```", section(recipe, "Rows"), flags=re.S)
    rows = {
        frozenset(json.loads(line))
        for path in recipe.files()
        if path.suffix == ".jsonl"
        for line in path.read_text().splitlines()
    }
    assert {frozenset(json.loads(line)) for text in examples for line in text.splitlines()} == rows


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_is_warned_of_that_the_page_does_not_explain(name: str) -> None:
    recipe = RECIPES[name]
    explained = section(recipe, "What plan says")
    warned = set(_warned(recipe))
    assert "train.data.train" in warned, "the example rows are few, and said to be"
    assert not {field for field in warned if f"`{field}`" not in explained}


@pytest.mark.parametrize("name", RECIPES)
def test_the_backend_of_a_recipe_runs_it_in_miniature(name: str) -> None:
    backend = planning.backend_of(RECIPES[name])
    tests = REFERENCE.parents[2] / "plugins" / backend / "tests" / "test_recipes.py"
    assert "own_recipes()" in tests.read_text(), f"write {tests.name} for the recipes of {backend}"


def test_recipes_have_a_table_in_the_reference() -> None:
    rows = [
        f"| `{item.name}` {item.summary} | {item.method} | {item.base} | {item.rows} | "
        f"{planning.smallest_device(item)} |"
        for item in RECIPES.values()
    ]
    text = f"{ABOVE}{chr(10).join(rows)}\n{BELOW}"
    if _MAY_WRITE:
        REFERENCE.write_text(text)
    assert REFERENCE.read_text() == text, "UPDATE_GOLDEN=1 writes it anew"


def _warned(recipe: JobRecipe) -> Iterator[str]:
    """Yield what is warned of with the rows that are planned for, and with the example rows."""
    for plan in planning.plans_of(recipe):
        train, mask = plan.resolved.spec.train, plan.resolved.mask_audit
        mask.rows = len(Path(train.data.train[0].source).read_text().splitlines())
        with_few = lint(Recipe.of(plan.resolved.spec, facts=plan.resolved.base, mask=mask))
        yield from (notice.field for notice in (*plan.notices, *with_few) if notice.severity == "warning")
