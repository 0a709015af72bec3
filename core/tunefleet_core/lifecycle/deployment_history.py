"""The history of a deployment: its newest events, kept in the row of its traffic."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from tunefleet.deployment.v1.deployment_service_pb2 import DeploymentEvents
from tunefleet.deployment.v1.rollout_pb2 import DeploymentEvent, DeploymentStateChanged
from tunefleet_core.lifecycle.draft import Draft
from tunefleet_core.lifecycle.rows import DeploymentRow, ReplicaRow
from tunefleet_core.lifecycle.traffic_row import TrafficRow

__all__ = ["append_events", "events_of", "record_states"]

_MOST_EVENTS = 500
"""What is kept of a deployment: a roll-out has about ten events, a lost server two per replica."""


def events_of(traffic: TrafficRow, after_sequence: int = 0) -> list[DeploymentEvent]:
    """Return the events that are kept and have a sequence above `after_sequence`, in order."""
    events = DeploymentEvents.FromString(traffic.history).events
    return [event for event in events if event.sequence > after_sequence]


def append_events(draft: Draft, traffic: TrafficRow, *events: DeploymentEvent) -> TrafficRow:
    """Append events, numbered and dated here; beyond the bound the oldest are given up."""
    held = DeploymentEvents.FromString(traffic.history)
    now = Timestamp()
    now.FromMicroseconds(int(draft.at.wall * 1e6))
    sequence = traffic.last_sequence
    for event in events:
        sequence += 1
        own = held.events.add()
        own.CopyFrom(event)
        own.sequence = sequence
        own.create_time.CopyFrom(now)
    del held.events[: max(0, len(held.events) - _MOST_EVENTS)]
    return draft.write(traffic, last_sequence=sequence, history=held.SerializeToString())


def record_states(draft: Draft) -> None:
    """Append an event for every version and replica whose state has changed since the last look.

    Closes the history of a deployment that is gone. Of a version's only replica nothing is told: it is
    where the version is.
    """
    replicas = draft.changed(ReplicaRow)
    for row in draft.changed(DeploymentRow):
        changed = _changed_state(draft, row, draft.world.deployment(row.uid))
        traffic = draft.traffic(row.deployment_uid)
        if changed is None or traffic is None:
            continue
        if row.last_replica == 1:
            only = draft.replicas_of(row.uid)
            changed.reason = only[0].reason if only else ""
        traffic = append_events(draft, traffic, DeploymentEvent(version=row.number, state_changed=changed))
        if row.is_deleted and all(version.is_deleted for version in draft.versions_of(row.name)):
            draft.write(traffic, is_over=True)
    for replica in replicas:
        before = draft.world.replica(replica.uid)
        changed = _changed_state(draft, replica, before)
        version = draft.deployment(replica.version_uid)
        traffic = None if version is None else draft.traffic(version.deployment_uid)
        if changed is None or version is None or traffic is None or version.last_replica == 1:
            continue
        changed.service = replica.service or (before.service if before is not None else "")
        changed.reason = replica.reason
        event = DeploymentEvent(version=version.number, replica=replica.number, state_changed=changed)
        append_events(draft, traffic, event)


def _changed_state(
    draft: Draft, row: DeploymentRow | ReplicaRow, old: DeploymentRow | ReplicaRow | None
) -> DeploymentStateChanged | None:
    """Return the change of a row's state that no event tells of yet; None if there is none."""
    before = draft.told_states.get(row.key, old.state if old is not None else None)
    if before == row.state:
        return None
    draft.told_states[row.key] = row.state
    changed = DeploymentStateChanged(to=row.state)
    if before is not None:
        setattr(changed, "from", before)  # `from` is a word of Python
    if row.error:
        changed.error.ParseFromString(row.error)
    return changed
