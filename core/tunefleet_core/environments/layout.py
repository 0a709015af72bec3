"""Where environments lie: `<state>/envs/<lock digest>`, and which backend uses which.

`TUNEFLEET_ENVS` names another folder than `<state>/envs`, so that several state
folders of one user can share environments of several gigabytes.

An environment is never moved or changed in place once the index names it. The
index is one small file, replaced atomically: a failed install changes nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from tunefleet_core.artifacts import write_whole_file
from tunefleet_core.errors import TunefleetError

__all__ = ["COMPLETE", "HOST_DIGEST", "Environment", "EnvironmentIndex", "host_environment"]

COMPLETE = ".complete"
"""A file that says that an environment is built to its end."""

_LOCK = "index.lock"
HOST_DIGEST = "host"
"""Stands for the environment the services themselves run in: pure plugins live there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A Python environment that holds plugins."""

    digest: str
    python: str
    plugins: tuple[str, ...] = ()

    @property
    def is_host(self) -> bool:
        """Whether it is the environment of the services."""
        return self.digest == HOST_DIGEST


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"a list of plugins is expected, got {value!r}")
    return tuple(str(item) for item in cast("list[object]", value))


def host_environment() -> Environment:
    """Return the environment this process runs in."""
    return Environment(digest=HOST_DIGEST, python=sys.executable)


class EnvironmentIndex:
    """The installed environments of a state folder."""

    def __init__(self, state_folder: Path) -> None:
        self._folder = Path(os.environ.get("TUNEFLEET_ENVS") or state_folder / "envs").absolute()
        self._file = self._folder / "index.json"

    def folder_of(self, digest: str) -> Path:
        """Return where an environment lies, whether it is there or not."""
        return self._folder / digest

    def existing_folder(self) -> Path:
        """Return the folder of environments, or the nearest above it that is there."""
        return next(path for path in (self._folder, *self._folder.parents) if path.is_dir())

    def stamp(self) -> float:
        """Return a number that changes when the index does; 0 if there is none."""
        try:
            return self._file.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def read(self) -> dict[str, Environment]:
        """Return plugin name to environment.

        Raises:
            TunefleetError: FIELD_INVALID if the index cannot be read.
        """
        try:
            content = json.loads(self._file.read_text())
            return {
                name: Environment(
                    digest=str(item["digest"]), python=str(item["python"]), plugins=_texts(item["plugins"])
                )
                for name, item in content["environments"].items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise TunefleetError.field(
                "environments",
                f"the index {self._file} cannot be read: {type(error).__name__}: {error}",
                hint=f"rm {self._file}, then tunefleet plugins install NAME for each backend",
            ) from error

    def environments(self) -> list[Environment]:
        """Return each installed environment once."""
        return list({item.digest: item for item in self.read().values()}.values())

    @contextmanager
    def changing(self, on_wait: Callable[[], None] = lambda: None) -> Generator[None]:
        """Change environments alone until the block ends: whoever else installs or removes waits.

        The lock is the kernel's, so it never outlives its holder.

        Args:
            on_wait: Called once if somebody else holds it.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def add(self, plugin: str, environment: Environment) -> None:
        """Name the environment of a plugin, atomically."""
        self._write({**self.read(), plugin: environment})

    def remove(self, plugin: str) -> Environment | None:
        """Forget a plugin, atomically; return where it was, with the plugins that are left there."""
        entries = self.read()
        gone = entries.pop(plugin, None)
        if gone is None:
            return None
        self._write(entries)
        left = tuple(sorted(name for name, item in entries.items() if item.digest == gone.digest))
        return replace(gone, plugins=left)

    def unused_folders(self) -> list[Path]:
        """Return the folders of finished environments that no plugin uses."""
        used = {item.digest for item in self.read().values()}
        finished = (path.parent for path in self._folder.glob(f"*/{COMPLETE}"))
        return sorted(folder for folder in finished if folder.name not in used)

    def _write(self, entries: Mapping[str, Environment]) -> None:
        shared = {
            item.digest: tuple(sorted(n for n, e in entries.items() if e.digest == item.digest))
            for item in entries.values()
        }
        content = {
            "version": 1,
            "environments": {
                name: {**asdict(item), "plugins": shared[item.digest]}
                for name, item in sorted(entries.items())
            },
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole_file(self._file, json.dumps(content, indent=1).encode() + b"\n")
