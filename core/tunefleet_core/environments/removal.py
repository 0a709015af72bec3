"""Remove a backend plugin, and its environment once nobody uses it.

The plugin leaves the index first, so that nothing new starts. A process that still runs
from the environment keeps its files: they go with the next install or removal.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import psutil

from tunefleet_core.environments.layout import EnvironmentIndex
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["RemovalReport", "remove"]

_PIP_SECONDS = 120
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovalReport:
    """What a removal did.

    Attributes:
        plugin: What was removed.
        freed_bytes: Disk space that is free again.
        shared_with: Plugins that go on using the same environment.
        used_by: Processes that still run from an environment nobody needs.
    """

    plugin: str
    freed_bytes: int
    shared_with: tuple[str, ...]
    used_by: tuple[int, ...]


def remove(plugin: str, state_folder: Path) -> RemovalReport:
    """Remove a plugin by name; blocks for as long as its files take to delete.

    Raises:
        TunefleetError: BACKEND_NOT_INSTALLED naming the plugins that are; STATE_CONFLICT naming
            those of its environment that build on it.
    """
    index = EnvironmentIndex(state_folder)
    with index.changing():
        return _remove(plugin, index)


def _remove(plugin: str, index: EnvironmentIndex) -> RemovalReport:
    _refuse_if_built_upon(plugin, index)
    environment = index.remove(plugin)
    if environment is None:
        known = ", ".join(sorted(index.read())) or "none"
        raise TunefleetError(
            Reason.BACKEND_NOT_INSTALLED,
            f"Plugin '{plugin}' is not installed in an environment of its own.",
            hint=f"Installed so: {known}. What lies beside the services is removed with pip.",
            metadata={"plugin": plugin},
        )
    folder = index.folder_of(environment.digest)
    if environment.plugins:
        command = [environment.python, "-m", "pip", "uninstall", "--quiet", "--yes", f"tunefleet-{plugin}"]
        subprocess.run(command, capture_output=True, timeout=_PIP_SECONDS, check=False)
        (folder / "describe.json").unlink(missing_ok=True)
    freed, busy = 0, set[int]()
    for unused in index.unused_folders():
        users = _users(unused)
        busy |= users
        if not users:
            freed += _size_bytes(unused)
            shutil.rmtree(unused, ignore_errors=True)
    return RemovalReport(
        plugin=plugin, freed_bytes=freed, shared_with=environment.plugins, used_by=tuple(sorted(busy))
    )


def _refuse_if_built_upon(plugin: str, index: EnvironmentIndex) -> None:
    """Raise STATE_CONFLICT if a plugin that stays would lose what it imports."""
    environment = index.read().get(plugin)
    if environment is None:
        return
    folder = index.folder_of(environment.digest)
    paths = [str(path) for path in folder.glob("lib/python*/site-packages")]
    required = {
        _canonical(item.name): {_required_name(line) for line in item.requires or ()}
        for item in distributions(path=paths)
    }
    others = (name for name in environment.plugins if name != plugin)
    above = [name for name in others if _distribution(plugin) in _below(_distribution(name), required)]
    if above:
        named = " and ".join(f"'{name}'" for name in above)
        raise TunefleetError(
            Reason.STATE_CONFLICT,
            f"Plugin '{plugin}' stays: {named} of the same environment builds on it.",
            hint=f"Remove what builds on it first: tunefleet plugins remove {above[0]}",
            metadata={"plugin": plugin, "needed_by": ", ".join(above)},
        )


def _below(distribution: str, required: dict[str, set[str]]) -> set[str]:
    """Return everything that a distribution requires, and what that requires."""
    found: set[str] = set()
    waiting: list[Iterable[str]] = [required.get(distribution, ())]
    while waiting:
        for name in set(waiting.pop()) - found:
            found.add(name)
            waiting.append(required.get(name, ()))
    return found


def _distribution(plugin: str) -> str:
    return _canonical(f"tunefleet-{plugin}")


def _required_name(requirement: str) -> str:
    match = _NAME.match(requirement)
    return _canonical(match[0]) if match else ""


def _canonical(name: str) -> str:
    """Return a name as packaging compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _users(folder: Path) -> set[int]:
    """Return the processes whose interpreter lies in a folder."""
    prefix = f"{folder}/"
    found: set[int] = set()
    for process in psutil.process_iter():
        try:
            if any(part.startswith(prefix) for part in process.cmdline()[:1]):
                found.add(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def _size_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
