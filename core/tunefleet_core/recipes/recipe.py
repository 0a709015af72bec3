"""What a recipe is: a folder with `recipe.toml`, `page.md`, job files and a few example rows.

A recipe is read where it is wanted, by the terminal client; the fleet knows nothing of it and
judges its job files as it does any other.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tunefleet_core.errors import TunefleetError

__all__ = ["JobRecipe", "PlannedRows", "find_recipe", "own_recipes", "read_recipe"]

PAGE, ABOUT = "page.md", "recipe.toml"
_SHELF = Path(__file__).parent / "shelf"
_SLUG = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
_WORDS = ("title", "summary", "method", "base", "rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRows:
    """The rows that the memory on a recipe's page is planned for.

    Attributes:
        count: How many.
        tokens: 95th percentile of their lengths, and their longest.
    """

    count: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecipe:
    """Job files for one purpose, with what a person should know first.

    Attributes:
        name: Its name, a slug: that of its folder.
        title: What it is for, a few words.
        summary: One sentence for lists.
        method: Training methods, such as `sft` or `sft, dpo`.
        base: The model its job files start from.
        rows: How many rows it takes, for people.
        planned: What its memory is planned for.
        jobs: Its job files, in the order in which they are run.
        folder: Where it lies.
    """

    name: str
    title: str
    summary: str
    method: str
    base: str
    rows: str
    planned: PlannedRows
    jobs: tuple[str, ...]
    folder: Path

    def page(self) -> str:
        """Return its page, Markdown, without the comments for those who write it."""
        return _COMMENT.sub("", (self.folder / PAGE).read_text(encoding="utf-8"))

    def files(self) -> tuple[Path, ...]:
        """Return what a person gets of it: job files in their order, then example rows and the like."""
        first = [self.folder / job for job in self.jobs]
        others = sorted(path for path in self.folder.iterdir() if path.is_file() and path not in first)
        return (*first, *(path for path in others if path.name not in (PAGE, ABOUT)))


def read_recipe(folder: Path) -> JobRecipe:
    """Read a recipe's folder.

    Raises:
        ValueError: The folder is none of a recipe; one sentence says why.

    Example:
        >>> read_recipe(own_recipes()[0].folder) == own_recipes()[0]
        True
    """
    if not _SLUG.fullmatch(folder.name):
        raise ValueError(f"the recipe '{folder}' is not named by a lower-case slug")
    try:
        about: Mapping[str, object] = tomllib.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"'{folder / ABOUT}' cannot be read: {error}") from error
    words = {name: about.get(name) for name in _WORDS}
    wrong = [name for name, value in words.items() if not isinstance(value, str) or not value]
    planned, jobs = about.get("planned"), about.get("jobs")
    if not _is_planned(planned):
        wrong.append("planned")
    if not isinstance(jobs, list) or not jobs:
        wrong.append("jobs")
    if wrong:
        raise ValueError(f"'{folder / ABOUT}' does not say {', '.join(wrong)}")
    names = [str(job) for job in cast("list[object]", jobs)]
    missing = [name for name in (PAGE, *names) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"the recipe '{folder}' has no {', '.join(missing)}")
    return JobRecipe(
        name=folder.name,
        **cast("dict[str, str]", words),
        planned=PlannedRows(**cast("dict[str, int]", planned)),
        jobs=tuple(names),
        folder=folder,
    )


def own_recipes() -> tuple[JobRecipe, ...]:
    """Return the recipes that come with tunefleet, by name."""
    return tuple(read_recipe(folder) for folder in sorted(_SHELF.iterdir()) if (folder / ABOUT).is_file())


def find_recipe(recipes: Iterable[JobRecipe], name: str) -> JobRecipe:
    """Return one of several recipes by its name.

    Raises:
        TunefleetError: FIELD_INVALID if none has it, with the nearest name.
    """
    # Not above: the job files' reader needs YAML, which the environment of a backend may not have.
    from tunefleet_core.spec.nearest import did_you_mean

    known = {recipe.name: recipe for recipe in recipes}
    if name not in known:
        raise TunefleetError.field(
            "recipe",
            f"there is no '{name}'{did_you_mean(name, known)}",
            hint="tunefleet recipes list",
        )
    return known[name]


def _is_planned(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    fields = cast("dict[object, object]", value)
    return set(fields) == {"count", "tokens"} and all(
        isinstance(number, int) and number > 0 for number in fields.values()
    )
