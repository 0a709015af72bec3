"""Claims about replicas, on the durable rows alone: how many, where, and what their version says of them."""

from __future__ import annotations

from collections.abc import Sequence

from google.rpc.status_pb2 import Status

from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet_core.errors import error_from_status
from tunefleet_core.lifecycle import Change, DeploymentRow, ReplicaRow, RowChange
from tunefleet_core.testing.simulation.claim import require
from tunefleet_core.testing.simulation.durable import DurableRows
from tunefleet_core.testing.simulation.settings import LASTING, PASSING

__all__ = ["ReplicaClaims"]

_READY = DeploymentState.DEPLOYMENT_STATE_READY
_DEGRADED = DeploymentState.DEPLOYMENT_STATE_DEGRADED
_DELETED = DeploymentState.DEPLOYMENT_STATE_DELETED
_WAITING = DeploymentState.DEPLOYMENT_STATE_WAITING_RETRY
_FAILED = DeploymentState.DEPLOYMENT_STATE_FAILED
_BEGUN = (DeploymentState.DEPLOYMENT_STATE_PENDING, DeploymentState.DEPLOYMENT_STATE_STARTING)
_CLOCK_STEP = 1e-6
_AT_WORK = (
    DeploymentState.DEPLOYMENT_STATE_PREPARING,
    DeploymentState.DEPLOYMENT_STATE_STARTING,
    _READY,
)
_GOING = (DeploymentState.DEPLOYMENT_STATE_STOPPING, DeploymentState.DEPLOYMENT_STATE_DRAINING, _DELETED)


class ReplicaClaims:
    """Checks every commit that touches a version or a replica, and counts how some went."""

    def __init__(self) -> None:
        self.lost = 0
        """How often a replica was taken off its server while others of its version stayed READY."""
        self.removed = 0
        """Replicas that were taken away from a version that went on."""

        self.retried = 0
        """How often a replica was to be tried again."""
        self.given_up = 0
        """Replicas that were tried as often as they may be."""
        self.tries = 1
        """How often that is."""

    def check(self, durable: DurableRows, changes: Sequence[Change]) -> None:
        """Check what a commit has made of the versions that it touches."""
        touched: dict[str, None] = {}
        for change in changes:
            if not isinstance(change, RowChange):
                continue
            old, new = change.old, change.new
            if isinstance(new, DeploymentRow):
                touched[new.uid] = None
            elif isinstance(new, ReplicaRow):
                touched[new.version_uid] = None
                if isinstance(old, ReplicaRow):
                    self._check_change(durable, old, new)
        if touched:
            rows = [row for row in durable.rows.values() if isinstance(row, ReplicaRow)]
            for uid in touched:
                version = durable.rows[("deployment", uid, 0)]
                if isinstance(version, DeploymentRow):
                    _check_version(version, [row for row in rows if row.version_uid == uid])

    def _check_change(self, durable: DurableRows, old: ReplicaRow, new: ReplicaRow) -> None:
        require(old.state != _DELETED or new == old, f"Replica {new.uid} changed after it was gone.")
        back = old.state in _GOING and new.state not in _GOING
        require(not back, f"Replica {new.uid} came back from its end.")
        self._check_tries(durable, old, new)
        moved = old.service != "" and new.service != old.service
        version = durable.rows[("deployment", new.version_uid, 0)]
        if not isinstance(version, DeploymentRow):
            return
        self.lost += moved and version.state == _DEGRADED
        self.removed += new.state == _DELETED and version.replicas > 0

    def _check_tries(self, durable: DurableRows, old: ReplicaRow, new: ReplicaRow) -> None:
        name = f"Replica {new.uid}"
        reason = error_from_status(Status.FromString(new.error)).reason if new.error else None
        if new.state != old.state and new.state == _WAITING:
            self.retried += 1
            require(reason is PASSING, f"{name} is to be tried again though {reason} does not pass.")
            is_next = new.failures == old.failures + 1 and new.failures < self.tries
            require(is_next, f"{name} is to be tried again after {new.failures} failures.")
            require(new.due_time is not None, f"{name} waits for no moment.")
        elif new.state != old.state and new.state == _FAILED:
            is_given_up = reason is PASSING and new.failures >= self.tries
            self.given_up += is_given_up
            require(reason is LASTING or is_given_up, f"{name} is given up after {new.failures} failures.")
        elif old.state == _WAITING and new.state in _BEGUN and old.due_time is not None:
            version = durable.rows[("deployment", new.version_uid, 0)]
            now = version.update_time if isinstance(version, DeploymentRow) else 0.0
            require(now >= old.due_time - _CLOCK_STEP, f"{name} is tried again before its time.")
        is_kept = new.failures >= old.failures or old.state == _READY
        require(is_kept, f"The failures of {name} are forgotten while it is not READY.")


def _check_version(version: DeploymentRow, replicas: Sequence[ReplicaRow]) -> None:
    name = f"Version {version.number} of {version.name}"
    numbers = [row.number for row in replicas]
    require(len(numbers) == len(set(numbers)), f"{name} has two replicas of one number.")
    staying = [row for row in replicas if row.state not in _GOING]
    require(len(staying) == version.replicas, f"{name} has {len(staying)} replicas, not {version.replicas}.")
    places = [(row.service, row.device_ids) for row in replicas if row.state in _AT_WORK]
    require(len(places) == len(set(places)), f"{name} has two replicas on one engine.")
    require(all(service for service, _ in places), f"{name} has a replica at work nowhere.")
    answering = sum(row.state == _READY for row in staying)
    says = version.state in (_READY, _DEGRADED)
    require(says == (answering > 0), f"{name} takes traffic with {answering} replicas that are READY.")
    is_whole = answering == version.replicas and answering > 0
    require((version.state == _READY) == is_whole, f"{name} is READY with {answering} of {version.replicas}.")
    gone = all(row.state == _DELETED for row in replicas)
    require((version.state == _DELETED) == gone, f"{name} is gone before its replicas, or after them.")
