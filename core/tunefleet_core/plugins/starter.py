"""Write a plugin to start from: a distribution that installs, trains or serves, and passes the kit.

The files lie in `starters/` as templates; `$name` and its forms are filled in.
"""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Literal

from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["StarterKind", "write_starter"]

StarterKind = Literal["train", "serve"]

_SLUG = re.compile(r"[a-z]([a-z0-9-]{0,39}[a-z0-9])?")
_COMMON = {
    "pyproject.toml.txt": "pyproject.toml",
    "README.md.txt": "README.md",
    "gitignore.txt": ".gitignore",
    "test_conformance.py.txt": "tests/test_conformance.py",
}
_WHAT = {
    "train": "`rank.py` trains, in a process of its own: the only place for heavy imports.",
    "serve": "`engine.py` knows the command line of the engine; `server.py` is one, until you have another.",
}


def write_starter(name: str, folder: Path, kind: StarterKind) -> list[Path]:
    """Write a starter distribution below a new folder, and return its files.

    Args:
        name: The backend's name, a lower-case slug.
        folder: Where to write; must not exist, or be empty.
        kind: Whether it trains or serves.

    Raises:
        TunefleetError: FIELD_INVALID for a name that cannot be one, or a folder with something in it.
    """
    if not _SLUG.fullmatch(name):
        raise TunefleetError.field(
            "name", f"'{name}' is no lower-case slug", hint="Use letters, digits and dashes: my-backend"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TunefleetError(
            Reason.FIELD_INVALID,
            f"'{folder}' is there already, and nothing of it is overwritten.",
            hint="Name another folder with --folder, or remove that one.",
            metadata={"folder": str(folder)},
        )
    values = _values(name, kind)
    templates = files("tunefleet_core.plugins").joinpath("starters")
    package = folder / values["package"]
    written = [
        _write(templates.joinpath(source), folder / target, values) for source, target in _COMMON.items()
    ]
    for source in sorted(templates.joinpath(kind).iterdir(), key=lambda item: item.name):
        written.append(_write(source, package / source.name.removesuffix(".txt"), values))
    for path, content in (
        (package / "__init__.py", f'"""The {name} backend of tunefleet."""\n'),
        (package / "py.typed", ""),
    ):
        path.write_text(content)
        written.append(path)
    return written


def _values(name: str, kind: StarterKind) -> dict[str, str]:
    return {
        "name": name,
        "package": f"tunefleet_{name.replace('-', '_')}",
        "camel": "".join(part.capitalize() for part in name.split("-")),
        "kind": kind,
        "what": _WHAT[kind],
        "suite": {"train": "TrainerConformance", "serve": "ServerConformance"}[kind],
    }


def _write(source: Traversable, target: Path, values: dict[str, str]) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(Template(source.read_text(encoding="utf-8")).substitute(values), encoding="utf-8")
    return target
