"""Replicas by version, server and state. Kept by the world alone."""

from __future__ import annotations

from typing import TypeVar

from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet_core.lifecycle.rows import ReplicaRow

__all__ = ["ReplicaIndex"]

_Key = TypeVar("_Key")


class ReplicaIndex:
    """Uids of replicas that are not DELETED, in the order of changes."""

    def __init__(self) -> None:
        self._of_version: dict[str, dict[str, None]] = {}
        self._of_service: dict[str, dict[str, None]] = {}
        self._in_state: dict[DeploymentState.ValueType, dict[str, None]] = {}

    def of_version(self, uid: str) -> list[str]:
        """Return the replicas of a version."""
        return list(self._of_version.get(uid, {}))

    def of_service(self, name: str) -> list[str]:
        """Return the replicas given to a server."""
        return list(self._of_service.get(name, {}))

    def in_state(self, state: DeploymentState.ValueType) -> list[str]:
        """Return the replicas in a state."""
        return list(self._in_state.get(state, {}))

    def replace(self, old: ReplicaRow | None, new: ReplicaRow | None) -> None:
        """Take in a change of a row."""
        if old is not None and not old.is_deleted:
            if new is None or new.is_deleted:
                _drop(self._of_version, old.version_uid, old.uid)
            if old.service:
                _drop(self._of_service, old.service, old.uid)
            _drop(self._in_state, old.state, old.uid)
        if new is not None and not new.is_deleted:
            self._of_version.setdefault(new.version_uid, {})[new.uid] = None
            if new.service:
                self._of_service.setdefault(new.service, {})[new.uid] = None
            self._in_state.setdefault(new.state, {})[new.uid] = None


def _drop(index: dict[_Key, dict[str, None]], key: _Key, uid: str) -> None:
    held = index[key]
    del held[uid]
    if not held:
        del index[key]
