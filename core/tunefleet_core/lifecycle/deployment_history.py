"""The history of a deployment: its newest events, kept in the row of its traffic."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.deployment.v1.deployment_service_pb2 import DeploymentEvents
from tunefleet.deployment.v1.rollout_pb2 import DeploymentEvent, DeploymentStateChanged
from tunefleet_core.lifecycle.draft import Draft
from tunefleet_core.lifecycle.rows import DeploymentRow
from tunefleet_core.lifecycle.traffic_row import TrafficRow

__all__ = ["append_events", "events_of", "record_states"]

_MOST_EVENTS = 500
"""What is kept of a deployment: a roll-out has about ten events, a lost server two per version."""


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
    """Append an event for every version whose state has changed since the last look; close what is over."""
    for row in draft.changed(DeploymentRow):
        before = draft.told_states.get(row.uid)
        if before is None and (old := draft.world.deployment(row.uid)) is not None:
            before = old.state
        traffic = draft.traffic(row.deployment_uid)
        if traffic is None or before == row.state:
            continue
        draft.told_states[row.uid] = row.state
        changed = DeploymentStateChanged(to=row.state)
        if before is not None:
            setattr(changed, "from", before)  # `from` is a word of Python
        if row.error:
            changed.error.ParseFromString(row.error)
        traffic = append_events(draft, traffic, DeploymentEvent(version=row.number, state_changed=changed))
        gone = row.state == DeploymentState.DEPLOYMENT_STATE_DELETED
        if gone and all(version.is_deleted for version in draft.versions_of(row.name)):
            draft.write(traffic, is_over=True)
