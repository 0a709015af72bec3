"""Rules for replicas: as many as a version is to have, and what they make of it together.

A version's `replicas` says how many engines are wanted; `fit_replicas` makes and takes away until
there are as many, `settle_versions` derives the version's state from theirs. Everything else about
a replica (placing, reports, loss, the end) happens to it alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet_core.lifecycle.draft import Draft
from tunefleet_core.lifecycle.rows import DeploymentRow, ReplicaRow

__all__ = ["DRAIN_SECONDS", "NOWHERE", "fit_replicas", "settle_versions", "stop_replica"]

DRAIN_SECONDS = 300.0
"""How long requests in flight of a replica may go on where no roll-out says otherwise."""

NOWHERE: Mapping[str, Any] = {
    "service": "",
    "host_id": "",
    "device_ids": (),
    "engine_address": "",
    "contract": b"",
    "download": b"",
    "is_held": False,
}
"""The fields of a replica that no server has."""

_PENDING = DeploymentState.DEPLOYMENT_STATE_PENDING
_PREPARING = DeploymentState.DEPLOYMENT_STATE_PREPARING
_STARTING = DeploymentState.DEPLOYMENT_STATE_STARTING
_READY = DeploymentState.DEPLOYMENT_STATE_READY
_STOPPING = DeploymentState.DEPLOYMENT_STATE_STOPPING
_FAILED = DeploymentState.DEPLOYMENT_STATE_FAILED
_DELETED = DeploymentState.DEPLOYMENT_STATE_DELETED
_DRAINING = DeploymentState.DEPLOYMENT_STATE_DRAINING
_WAITING = DeploymentState.DEPLOYMENT_STATE_WAITING_RETRY

_ON_THEIR_WAY = frozenset({_STOPPING, _DRAINING, _DELETED})
_LEAST_MISSED = (_FAILED, _WAITING, _PENDING, _PREPARING, _STARTING, _READY)
"""Which replica goes first when there are too many."""


def fit_replicas(draft: Draft, version: DeploymentRow, drain_seconds: float = DRAIN_SECONDS) -> DeploymentRow:
    """Give a version as many replicas as it is to have; those too many end their requests first."""
    staying = [row for row in draft.replicas_of(version.uid) if row.state not in _ON_THEIR_WAY]
    missing = version.replicas - len(staying)
    for number in range(version.last_replica + 1, version.last_replica + 1 + max(0, missing)):
        uid = version.uid if number == 1 else f"{version.uid}-{number}"
        draft.insert(ReplicaRow(uid=uid, version_uid=version.uid, number=number, state=_PENDING, version=1))
        version = draft.write(version, last_replica=number)
    going = sorted(staying, key=lambda row: (_LEAST_MISSED.index(row.state), -row.number))
    for row in going[: max(0, -missing)]:
        _take_down(draft, row, drain_seconds)
    return settle_version(draft, version.uid) or version


def _take_down(draft: Draft, row: ReplicaRow, drain_seconds: float) -> None:
    """Take a replica down: at once if no server holds it, after its requests in flight if it is READY."""
    if row.state in (_PENDING, _FAILED, _WAITING):
        draft.write(row, state=_DELETED, reason="", deadline=None, due_time=None)
    elif row.state == _READY:
        draft.write(
            row,
            state=_DRAINING,
            deadline=draft.at.now + drain_seconds,
            due_time=draft.at.wall + drain_seconds,
            drained=frozenset[str](),
        )
    else:
        stop_replica(draft, row)


def stop_replica(draft: Draft, row: ReplicaRow) -> None:
    """Have the server of a replica drop it."""
    # A server that has not begun with it has nothing to report as gone, so its silence must do.
    patience = draft.at.now + draft.policy.lease_term_seconds
    draft.write(row, state=_STOPPING, deadline=None if row.is_held else patience, due_time=None)


def settle_versions(draft: Draft) -> None:
    """Take in what this decision changed of replicas."""
    for uid in dict.fromkeys(row.version_uid for row in draft.changed(ReplicaRow)):
        settle_version(draft, uid)


def settle_version(draft: Draft, uid: str) -> DeploymentRow | None:
    """Bring a version's row to what its replicas are. Returns it; None if it is long gone."""
    version = draft.deployment(uid)
    if version is None:
        return None
    replicas = draft.replicas_of(uid)
    fields = _together(version, replicas)
    is_as_before = all(getattr(version, name) == value for name, value in fields.items())
    is_untouched = version is draft.world.deployment(uid)
    if is_as_before and not (is_untouched and any(_is_changed(draft, row) for row in replicas)):
        return version
    return draft.write(version, **fields)


def _is_changed(draft: Draft, row: ReplicaRow) -> bool:
    before = draft.world.replica(row.uid)
    return before is None or before.version != row.version


def _together(version: DeploymentRow, replicas: Sequence[ReplicaRow]) -> dict[str, Any]:
    """Return the fields of a version that follow from its replicas."""
    present = [row for row in replicas if row.state != _DELETED]
    if not present:
        return {"state": _DELETED}
    staying = [row for row in present if row.state not in _ON_THEIR_WAY] or present
    shown = next((row for row in staying if row.is_ready), None)
    shown = shown or next((row for row in staying if row.service), staying[0])
    return {
        "state": _state(version, staying),
        "service": shown.service,
        "engine_address": shown.engine_address,
        "contract": shown.contract,
        "error": next((row.error for row in staying if row.error), b""),
    }


def _state(version: DeploymentRow, staying: Sequence[ReplicaRow]) -> DeploymentState.ValueType:
    states = {row.state for row in staying}
    if not version.replicas:
        return _DRAINING if _DRAINING in states else _STOPPING
    if states == {_READY}:
        return _READY
    if _READY in states:
        return DeploymentState.DEPLOYMENT_STATE_DEGRADED
    return next((state for state in (_STARTING, _PREPARING, _PENDING, _WAITING) if state in states), _FAILED)
