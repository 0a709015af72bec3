"""Where a plugin to install comes from: a source tree, or the package index."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tunefleet_core import __version__
from tunefleet_core.errors import Reason, TunefleetError

__all__ = [
    "PluginSource",
    "find_plugin_source",
    "plugin_name",
    "plugins_below",
    "source_tree",
    "tunefleet_requirement",
]

_OURS = "tunefleet-"
_DISTRIBUTION = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSource:
    """A plugin that can be installed.

    Attributes:
        name: What it is called, such as `trl`.
        distribution: Its distribution, such as `tunefleet-trl`.
        locks: Folder of its lock files; there may be none.
        dependencies: What it requires, for a plugin without lock files.
        install_arguments: Arguments for the installer.
    """

    name: str
    distribution: str
    locks: Path
    dependencies: tuple[str, ...]
    install_arguments: tuple[str, ...]

    @property
    def is_locked(self) -> bool:
        """Whether its environment is pinned to the last package."""
        return self.locks.is_dir()


def plugin_name(distribution: str) -> str:
    """Return what the plugin of a distribution is called, such as `trl` for `tunefleet-trl`."""
    return distribution.removeprefix(_OURS)


def plugins_below(source: PluginSource) -> list[PluginSource]:
    """Return the plugins of this project that a plugin requires, each after those that it requires itself.

    They come from where tunefleet comes from, so that no lock has to name a version of them. A
    plugin of anybody else's that one builds on is a package like any other: its lock pins it.
    """
    found: dict[str, PluginSource] = {}
    for requirement in source.dependencies:
        match = _DISTRIBUTION.match(requirement)
        if match is None or not match[0].startswith(_OURS):
            continue
        part = _of_this_project(match[0])
        for item in (*plugins_below(part), part):
            found.setdefault(item.distribution, item)
    return list(found.values())


def source_tree() -> Path | None:
    """Return the root of the source tree this code runs from; None if it was installed as a wheel."""
    spec = importlib.util.find_spec("tunefleet_core")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).resolve().parents[2]
    return root if (root / "plugins").is_dir() and (root / "pyproject.toml").is_file() else None


def tunefleet_requirement() -> tuple[str, ...]:
    """Return the installer's arguments for tunefleet itself: the same code as this process runs."""
    root = source_tree()
    return ("--editable", str(root)) if root else (f"tunefleet=={__version__}",)


def find_plugin_source(name_or_path: str) -> PluginSource:
    """Find a plugin by folder, or by name in the source tree.

    Raises:
        TunefleetError: BACKEND_NOT_INSTALLED naming what is there.
    """
    root = source_tree()
    folder = Path(name_or_path)
    if not (folder / "pyproject.toml").is_file() and root is not None:
        folder = root / "plugins" / name_or_path
    if not (folder / "pyproject.toml").is_file():
        known = sorted(p.parent.name for p in (root / "plugins").glob("*/pyproject.toml")) if root else []
        raise TunefleetError(
            Reason.BACKEND_NOT_INSTALLED,
            f"No plugin '{name_or_path}' here.",
            hint=f"Known: {', '.join(known)}." if known else "Give the folder of the plugin's source.",
            metadata={"plugin": name_or_path},
        )
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    name = str(project["name"])
    return PluginSource(
        name=plugin_name(name),
        distribution=name,
        locks=folder / name.replace("-", "_") / "locks",
        dependencies=tuple(str(item) for item in project.get("dependencies", ())),
        install_arguments=("--editable", str(folder.resolve())),
    )


def _of_this_project(distribution: str) -> PluginSource:
    name = plugin_name(distribution)
    if source_tree() is not None:
        return find_plugin_source(name)
    return PluginSource(
        name=name,
        distribution=distribution,
        locks=Path(),
        dependencies=(),
        install_arguments=(f"{distribution}=={__version__}",),
    )
