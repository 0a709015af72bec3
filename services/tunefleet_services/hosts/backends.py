"""Which backends this machine has, and in which environment each lives."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from tunefleet.fleet.v1.fleet_pb2 import InstalledBackend
from tunefleet_core.environments import (
    Environment,
    EnvironmentIndex,
    describe_environment,
    host_environment,
)
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["BackendDirectory"]

_LOG = logging.getLogger(__name__)


class BackendDirectory:
    """Describes the host environment and every installed one; notices a change of the index."""

    def __init__(self, state_folder: Path) -> None:
        self._index = EnvironmentIndex(state_folder)
        self._stamp = -1.0
        self._found: dict[str, tuple[InstalledBackend, Environment]] = {}
        self._lock = asyncio.Lock()

    async def refresh(self) -> bool:
        """Look again if the index changed; return whether it had."""
        async with self._lock:
            stamp = await asyncio.to_thread(self._index.stamp)
            if stamp == self._stamp:
                return False
            environments = [host_environment(), *await asyncio.to_thread(self._index.environments)]
            answers = await asyncio.gather(*(self._describe(item) for item in environments))
            found: dict[str, tuple[InstalledBackend, Environment]] = {}
            for environment, backends in zip(environments, answers, strict=True):
                for backend in backends:
                    # The host's environment comes first; a plugin's own environment wins over it.
                    found[backend.manifest.name] = (backend, environment)
            self._found = found
            self._stamp = stamp
            return True

    def backends(self) -> list[InstalledBackend]:
        """Return what was found at the last look, failed ones included."""
        return [backend for backend, _ in self._found.values()]

    def find(self, name: str) -> tuple[InstalledBackend, Environment]:
        """Return an active backend and its environment.

        Raises:
            TunefleetError: BACKEND_NOT_INSTALLED, with the reason if it is broken.
        """
        entry = self._found.get(name)
        if entry is None or entry[0].status != "ACTIVE":
            why = f": {entry[0].error}" if entry else "."
            raise TunefleetError(
                Reason.BACKEND_NOT_INSTALLED,
                f"Backend '{name}' is not usable on this host{why}",
                hint=(entry[0].hint if entry else "") or f"tunefleet plugins install {name}",
                metadata={"backend": name},
            )
        return entry

    def find_tracker(self, name: str) -> tuple[InstalledBackend, Environment] | None:
        """Return what tells numbers to a tracker of that name, and its environment; None: nothing does."""
        known = (entry for entry in self._found.values() if entry[0].status == "ACTIVE")
        return next((entry for entry in known if name in entry[0].manifest.trackers), None)

    async def _describe(self, environment: Environment) -> list[InstalledBackend]:
        cache = None if environment.is_host else self._index.folder_of(environment.digest) / "describe.json"
        backends = await describe_environment(environment, cache)
        for backend in backends:
            if backend.status != "ACTIVE":
                _LOG.warning("backend %s: %s", backend.manifest.name, backend.error)
        return backends
