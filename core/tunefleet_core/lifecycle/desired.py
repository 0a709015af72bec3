"""What every service is to hold now, and whom a decision concerns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.fleet.v1.fleet_pb2 import AssignmentGoal, ServiceKind
from tunefleet_core.lifecycle.changes import Change, EventsAppended, EventsDropped, RowChange, RowRemoved
from tunefleet_core.lifecycle.rollout_rules import ALL, shares_of
from tunefleet_core.lifecycle.rows import (
    AttemptRow,
    AttemptState,
    DeploymentRow,
    JobRow,
    ReplicaRow,
    ServiceRow,
    TrafficRow,
)
from tunefleet_core.lifecycle.world import World

__all__ = [
    "DesiredAssignment",
    "DesiredReplica",
    "DesiredView",
    "deployments_touched",
    "desired_for",
    "jobs_touched",
    "services_touched",
]


_SEEN_BY_GATEWAYS = frozenset(
    {DeploymentState.DEPLOYMENT_STATE_READY, DeploymentState.DEPLOYMENT_STATE_DRAINING}
)
_GOALS = {
    AttemptState.STOPPING: AssignmentGoal.ASSIGNMENT_GOAL_CANCEL,
    AttemptState.PAUSING: AssignmentGoal.ASSIGNMENT_GOAL_PAUSE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredAssignment:
    """One attempt that a trainer is to hold, and what is wanted of it."""

    job: JobRow
    attempt: AttemptRow
    goal: AssignmentGoal.ValueType


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredReplica:
    """One replica that a server is to hold, or to which gateways send requests."""

    version: DeploymentRow
    replica: ReplicaRow

    @property
    def uid(self) -> str:
        """What its server calls it."""
        return self.replica.uid


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredView:
    """Everything a service is to hold. What is not named is to be stopped."""

    assignments: tuple[DesiredAssignment, ...] = ()
    deployments: tuple[DesiredReplica, ...] = ()
    routes: tuple[DesiredReplica, ...] = ()
    """For gateways: every READY replica of a version that gets traffic."""
    shares: Mapping[str, int] = field(default_factory=dict[str, int])
    """For gateways: the share of each version, percent, by its uid; those of one deployment have 100."""
    splits: Mapping[str, TrafficRow] = field(default_factory=dict[str, TrafficRow])
    """For gateways: the roll-outs that go on, by the uid of the deployment."""
    draining: tuple[str, ...] = ()
    """For gateways: uids of the versions of which requests in flight are waited for."""
    draining_replicas: tuple[str, ...] = ()
    """For gateways: uids of the replicas of which they are, while others of their version go on."""


def desired_for(world: World, service_name: str) -> DesiredView:
    """Return what a service is to hold; empty for a service that is not known."""
    service = world.service(service_name)
    if service is None:
        return DesiredView()
    assignments: list[DesiredAssignment] = []
    for attempt in world.attempts_of_service(service_name):
        job = world.job(attempt.job_uid)
        if job is not None:
            goal = _GOALS.get(attempt.state, AssignmentGoal.ASSIGNMENT_GOAL_RUN)
            assignments.append(DesiredAssignment(job=job, attempt=attempt, goal=goal))
    if service.kind == ServiceKind.SERVICE_KIND_GATEWAY:
        return _for_gateway(world)
    return DesiredView(
        assignments=tuple(assignments),
        deployments=tuple(
            _of_version(world, row) for row in world.replicas_of_service(service_name) if row.is_live
        ),
    )


def _of_version(world: World, replica: ReplicaRow) -> DesiredReplica:
    version = world.deployment(replica.version_uid)
    if version is None:
        raise RuntimeError(f"The version of replica {replica.uid} is not in the working set.")
    return DesiredReplica(version=version, replica=replica)


def _for_gateway(world: World) -> DesiredView:
    routes: list[DesiredReplica] = []
    shares: dict[str, int] = {}
    splits: dict[str, TrafficRow] = {}
    for replica in world.replicas_in(DeploymentState.DEPLOYMENT_STATE_READY):
        route = _of_version(world, replica)
        row = route.version
        traffic = world.traffic(row.deployment_uid)
        if traffic is None or not traffic.is_rolling:
            share = ALL if row.is_current else 0
        else:
            versions = world.deployment(traffic.current), world.deployment(traffic.candidate)
            share = shares_of(traffic, *versions).get(row.uid, 0)
            splits[traffic.uid] = traffic
        if share:
            routes.append(route)
            shares[row.uid] = share
    draining: dict[str, None] = {}
    draining_replicas: list[str] = []
    for replica in world.replicas_in(DeploymentState.DEPLOYMENT_STATE_DRAINING):
        if _of_version(world, replica).version.replicas:
            draining_replicas.append(replica.uid)
        else:
            draining[replica.version_uid] = None
    return DesiredView(
        routes=tuple(routes),
        shares=shares,
        splits=splits,
        draining=tuple(draining),
        draining_replicas=tuple(draining_replicas),
    )


def services_touched(world: World, changes: Iterable[Change]) -> frozenset[str]:
    """Return the services whose desired set may differ after these changes (already applied)."""
    touched: set[str] = set()
    routes = False
    for change in changes:
        if not isinstance(change, RowChange):
            continue
        old, new = change.old, change.new
        if isinstance(new, AttemptRow):
            before = (old.state, old.checkpoint_requests) if isinstance(old, AttemptRow) else None
            if before != (new.state, new.checkpoint_requests):
                touched.add(new.service)
        elif isinstance(new, ServiceRow):
            if not isinstance(old, ServiceRow) or old.epoch != new.epoch:
                touched.add(new.name)
        elif isinstance(new, ReplicaRow):
            before = old if isinstance(old, ReplicaRow) else None
            touched.update(row.service for row in (before, new) if row is not None and row.service)
            states = {row.state for row in (before, new) if row is not None}
            routes = routes or not states.isdisjoint(_SEEN_BY_GATEWAYS)
        elif isinstance(new, DeploymentRow):
            is_other = isinstance(old, DeploymentRow) and old.replicas != new.replicas
            routes = routes or is_other
        elif isinstance(new, TrafficRow):
            before = (old.state, old.step) if isinstance(old, TrafficRow) else None
            routes = routes or (before != (new.state, new.step) and new.candidate != "")
    if routes:
        touched.update(world.gateways())
    return frozenset(touched)


def jobs_touched(changes: Iterable[Change]) -> frozenset[str]:
    """Return the uids of the jobs that changed or got events."""
    touched: set[str] = set()
    for change in changes:
        if isinstance(change, EventsAppended | EventsDropped):
            touched.add(change.job_uid)
            continue
        row = change.old if isinstance(change, RowRemoved) else change.new
        if isinstance(row, JobRow):
            touched.add(row.uid)
    return frozenset(touched)


def deployments_touched(changes: Iterable[Change]) -> frozenset[str]:
    """Return the uids of the deployments of which a version changed, or that got events."""
    touched: set[str] = set()
    for change in changes:
        if isinstance(change, RowChange) and isinstance(change.new, DeploymentRow):
            touched.add(change.new.deployment_uid)
        elif isinstance(change, RowChange) and isinstance(change.new, TrafficRow):
            touched.add(change.new.uid)
    return frozenset(touched)
