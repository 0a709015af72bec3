"""Remove a backend plugin, and its environment once nobody uses it.

The plugin leaves the index first, so that nothing new starts. A process that still runs
from the environment keeps its files: they go with the next install or removal.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from tunefleet_core.environments.layout import EnvironmentIndex
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["RemovalReport", "remove"]

_PIP_SECONDS = 120


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
        TunefleetError: BACKEND_NOT_INSTALLED naming the plugins that are.
    """
    index = EnvironmentIndex(state_folder)
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
