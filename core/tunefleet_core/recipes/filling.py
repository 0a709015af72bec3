"""Write a recipe's job files and example rows into a folder, with the base of one's own."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.recipes.recipe import JobRecipe
from tunefleet_core.spec import parse_job_text

__all__ = ["use_recipe"]


def use_recipe(recipe: JobRecipe, folder: Path, *, base: str = "") -> tuple[Path, ...]:
    """Write a recipe's files below a folder, and return them: job files first, in their order.

    Args:
        recipe: Which one.
        folder: Where to write; must not exist, or be empty.
        base: The model to start from instead: a Hub id, a local folder or `models/<name>`.

    Raises:
        TunefleetError: FIELD_INVALID for a folder with something in it, or a file that cannot be
            written, and DISK_FULL as the system says it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TunefleetError(
            Reason.FIELD_INVALID,
            f"'{folder}' is there already, and nothing of it is overwritten.",
            hint="Name another folder with --folder, or remove that one.",
            metadata={"folder": str(folder)},
        )
    # Everything is read and judged before anything is written: a wrong base leaves no folder behind.
    contents = {path.name: path.read_bytes() for path in recipe.files()}
    if base:
        for job in recipe.jobs:
            contents[job] = _on_base(contents[job].decode(), recipe.base, base).encode()
    for job in recipe.jobs:
        parse_job_text(contents[job].decode(), base_dir=None, origin=job)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, content in contents.items():
        target = folder / name
        with target.open("xb") as file:  # never over what somebody put there meanwhile
            file.write(content)
        written.append(target)
    return tuple(written)


def _on_base(text: str, old: str, new: str) -> str:
    """Return a job file that starts from another model; comments and all else stay as they are."""
    if Path(new).is_dir():
        new = str(Path(new).absolute())  # paths of a job file are taken from where it lies
    quoted = json.dumps(new, ensure_ascii=False)
    return re.sub(rf"(?<=\bmodel: ){re.escape(old)}(?=[\s,}}]|$)", lambda _: quoted, text)
