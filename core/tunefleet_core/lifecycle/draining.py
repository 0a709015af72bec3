"""Rules for taking versions and replicas down: no new requests, the end of those in flight, the engine's."""

from __future__ import annotations

from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.fleet.v1.fleet_pb2 import ServiceState
from tunefleet_core.lifecycle.draft import Draft
from tunefleet_core.lifecycle.inputs import TrafficReported
from tunefleet_core.lifecycle.replicas import DRAIN_SECONDS, fit_replicas, stop_replica
from tunefleet_core.lifecycle.rows import DeploymentRow, ReplicaRow

__all__ = ["end_drains", "take_down", "take_drained"]

_DRAINING = DeploymentState.DEPLOYMENT_STATE_DRAINING


def take_down(draft: Draft, row: DeploymentRow, drain_seconds: float = DRAIN_SECONDS) -> DeploymentRow:
    """Take a version down, each replica for itself: those that answer end their requests first."""
    if not row.replicas:
        return row
    return fit_replicas(draft, draft.write(row, replicas=0), drain_seconds)


def take_drained(draft: Draft, reported: TrafficReported) -> None:
    """Note that a gateway has no request in flight with what is to go."""
    uids = list(reported.drained_replicas)
    for version_uid in reported.drained:
        version = draft.deployment(version_uid)
        if version is not None and not version.replicas:
            uids += [row.uid for row in draft.replicas_of(version_uid)]
    for uid in uids:
        row = draft.replica(uid)
        if row is not None and row.state == _DRAINING and reported.service not in row.drained:
            draft.touch(row, drained=row.drained | {reported.service})


def end_drains(draft: Draft) -> None:
    """Stop the draining replicas that no gateway has a request in flight with, or that had their time."""
    rows = {row.uid: row for row in draft.world.replicas_in(_DRAINING)}
    rows.update({row.uid: row for row in draft.changed(ReplicaRow)})
    for uid in rows:
        row = draft.replica(uid)
        if row is None or row.state != _DRAINING:
            continue
        is_late = row.deadline is not None and row.deadline <= draft.at.now
        if is_late or all(name in row.drained for name in _present_gateways(draft)):
            stop_replica(draft, row)


def _present_gateways(draft: Draft) -> list[str]:
    """Return the gateways that may have requests in flight; one that is silent may as well."""
    found = (draft.service(name) for name in draft.world.gateways())
    lost = ServiceState.SERVICE_STATE_LOST
    return [service.name for service in found if service is not None and service.state != lost]
