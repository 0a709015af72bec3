"""Rules for replicas that failed: tried again after a while if the cause may pass, else FAILED for good.

A server has tried by itself before it says that a replica failed: an engine that dies is started again, and
only one that goes on dying is given up. What is decided here is whether another beginning makes sense: from
nothing, on another server if there is one, and not for ever.
"""

from __future__ import annotations

from typing import Any

from google.rpc.status_pb2 import Status

from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.deployment.v1.rollout_pb2 import RolloutPolicy
from tunefleet_core.errors import Reason, error_from_status
from tunefleet_core.lifecycle.draft import Draft
from tunefleet_core.lifecycle.placement import place_replica
from tunefleet_core.lifecycle.replicas import DRAIN_SECONDS, NOWHERE
from tunefleet_core.lifecycle.rollout_rules import seconds_of
from tunefleet_core.lifecycle.rows import ReplicaRow

__all__ = ["PASSING", "begin_clocks", "failed_fields", "pass_replica_time", "ready_fields"]

PASSING = frozenset(
    {
        Reason.UNAVAILABLE,
        Reason.WORKER_LOST,
        Reason.DISK_FULL,
        Reason.OUT_OF_MEMORY,
        Reason.TIME_LIMIT,
        Reason.DIGEST_MISMATCH,
        Reason.HUB_UNREACHABLE,
        Reason.INSUFFICIENT_ACCELERATORS,
        Reason.INTERNAL,
    }
)
"""Reasons that may be gone at the next try: machines, disks, networks, processes that were killed. What
the contract refuses, an engine that ends by itself while it starts, a model that is not there: not they."""

_WAITING = DeploymentState.DEPLOYMENT_STATE_WAITING_RETRY
_READY = DeploymentState.DEPLOYMENT_STATE_READY
_DRAINING = DeploymentState.DEPLOYMENT_STATE_DRAINING


def failed_fields(draft: Draft, row: ReplicaRow, error: bytes) -> dict[str, Any]:
    """Return the fields of a replica that failed with an error: WAITING_RETRY, or FAILED for good."""
    if error_from_status(Status.FromString(error)).reason not in PASSING:
        return {"state": DeploymentState.DEPLOYMENT_STATE_FAILED, "reason": "", "deadline": None}
    failures, most = row.failures + 1, draft.policy.replica_tries
    if failures >= most:
        reason = f"Replica {row.number} was tried {failures} times and is given up."
        return {
            "state": DeploymentState.DEPLOYMENT_STATE_FAILED,
            "failures": failures,
            "reason": reason,
            "deadline": None,
        }
    wait = draft.policy.replica_backoff_seconds(failures)
    return {
        "state": _WAITING,
        "failures": failures,
        "reason": f"Replica {row.number} failed; it is tried again after {wait:.0f} s, "
        f"try {failures + 1} of {most}.",
        "deadline": draft.at.now + wait,
        "due_time": draft.at.wall + wait,
    }


def ready_fields(draft: Draft, row: ReplicaRow) -> dict[str, Any]:
    """Return the fields of a replica that is READY now: if it stays so, its failures are forgotten."""
    return {"deadline": draft.at.now + draft.policy.replica_stable_seconds if row.failures else None}


def pass_replica_time(draft: Draft, row: ReplicaRow) -> None:
    """Act on the deadline of a replica that has come."""
    if row.deadline is None or row.deadline > draft.at.now:
        return
    if row.state == _READY and row.failures:
        draft.write(row, failures=0, deadline=None)
    elif row.state == _WAITING:
        _try_again(draft, row)
    elif row.state == DeploymentState.DEPLOYMENT_STATE_STOPPING and not row.is_held:
        # Its attached server never reported on it.
        draft.write(row, state=DeploymentState.DEPLOYMENT_STATE_DELETED, deadline=None)


def _try_again(draft: Draft, row: ReplicaRow) -> None:
    """Begin a replica anew whose wait is over."""
    draft.write(
        row,
        state=DeploymentState.DEPLOYMENT_STATE_PENDING,
        earlier_tries=row.earlier_tries + 1,
        deadline=None,
        due_time=None,
        reason="",
        **NOWHERE,
    )
    place_replica(draft, row.uid, rather_not=row.service)


def begin_clocks(draft: Draft) -> None:
    """Give replicas the deadlines they had before a restart of the coordinator."""
    now = draft.at.now
    for row in draft.world.replicas_in(_DRAINING):
        left = _left(draft, row, _drain_seconds(draft, row))
        draft.touch(row, deadline=now + left, drained=frozenset[str]())
    for row in draft.world.replicas_in(_WAITING):
        left = _left(draft, row, draft.policy.replica_backoff_seconds(max(1, row.failures)))
        draft.touch(row, deadline=now + left)
    for row in draft.world.replicas_in(_READY):
        if row.failures:
            draft.touch(row, **ready_fields(draft, row))


def _left(draft: Draft, row: ReplicaRow, longest: float) -> float:
    """Return for how long a replica still waits; a wall clock that was set meanwhile changes little."""
    if row.due_time is None:
        return longest
    return min(longest, max(0.0, row.due_time - draft.at.wall))


def _drain_seconds(draft: Draft, row: ReplicaRow) -> float:
    """Return the longest time that requests in flight of a replica may have been given."""
    version = draft.deployment(row.version_uid)
    traffic = None if version is None else draft.traffic(version.deployment_uid)
    policy = RolloutPolicy.FromString(traffic.policy if traffic is not None else b"")
    return max(DRAIN_SECONDS, seconds_of(policy.drain_limit))
