"""Rules for taking a version down: no new requests, the end of those in flight, then the engine."""

from __future__ import annotations

from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.fleet.v1.fleet_pb2 import ServiceState
from tunefleet_core.lifecycle.draft import Draft
from tunefleet_core.lifecycle.rows import DeploymentRow

__all__ = ["DRAIN_SECONDS", "end_drains", "stop", "take_down"]

DRAIN_SECONDS = 300.0
"""How long requests in flight of a version may go on where no roll-out says otherwise."""
_NOT_THERE = frozenset({DeploymentState.DEPLOYMENT_STATE_PENDING, DeploymentState.DEPLOYMENT_STATE_FAILED})
_ON_ITS_WAY = frozenset(
    {
        DeploymentState.DEPLOYMENT_STATE_STOPPING,
        DeploymentState.DEPLOYMENT_STATE_DRAINING,
        DeploymentState.DEPLOYMENT_STATE_DELETED,
    }
)


def take_down(draft: Draft, row: DeploymentRow, drain_seconds: float = DRAIN_SECONDS) -> DeploymentRow:
    """Take a version down: at once if no server holds it, after its requests in flight if it is READY."""
    if row.state in _ON_ITS_WAY:
        return row
    if row.state in _NOT_THERE:
        return draft.write(row, state=DeploymentState.DEPLOYMENT_STATE_DELETED)
    if row.state != DeploymentState.DEPLOYMENT_STATE_READY:
        return stop(draft, row)
    return draft.write(
        row,
        state=DeploymentState.DEPLOYMENT_STATE_DRAINING,
        deadline=draft.at.now + drain_seconds,
        drained=frozenset[str](),
    )


def stop(draft: Draft, row: DeploymentRow) -> DeploymentRow:
    """Have the server of a version drop it."""
    # A server that has not begun with it has nothing to report as gone, so its silence must do.
    patience = draft.at.now + draft.policy.lease_term_seconds
    return draft.write(
        row,
        state=DeploymentState.DEPLOYMENT_STATE_STOPPING,
        deadline=None if row.is_held else patience,
    )


def end_drains(draft: Draft) -> None:
    """Stop the draining versions that no gateway has a request in flight with, or that had their time."""
    rows = {row.uid: row for row in draft.world.draining_deployments()}
    rows.update({row.uid: row for row in draft.changed(DeploymentRow)})
    for uid in rows:
        row = draft.deployment(uid)
        if row is None or row.state != DeploymentState.DEPLOYMENT_STATE_DRAINING:
            continue
        is_late = row.deadline is not None and row.deadline <= draft.at.now
        if is_late or all(name in row.drained for name in _present_gateways(draft)):
            stop(draft, row)


def _present_gateways(draft: Draft) -> list[str]:
    """Return the gateways that may have requests in flight; one that is silent may as well."""
    found = (draft.service(name) for name in draft.world.gateways())
    lost = ServiceState.SERVICE_STATE_LOST
    return [service.name for service in found if service is not None and service.state != lost]
