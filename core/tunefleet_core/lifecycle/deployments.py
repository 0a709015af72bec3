"""Rules for deployments: asked for, scaled, taken down; and for what servers say of their replicas."""

from __future__ import annotations

from collections.abc import Iterable

from tunefleet.deployment.v1.deployment_pb2 import DeploymentSpec, DeploymentState
from tunefleet.deployment.v1.rollout_pb2 import DeploymentEvent, DeploymentScaled
from tunefleet.fleet.v1.fleet_pb2 import DeploymentStatus
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle.deployment_asked import check_etag, find_asked, no_deployment
from tunefleet_core.lifecycle.deployment_history import append_events
from tunefleet_core.lifecycle.draft import Draft
from tunefleet_core.lifecycle.draining import take_down
from tunefleet_core.lifecycle.inputs import (
    Accepted,
    Acknowledged,
    DeploymentDeleteRequested,
    DeploymentScaleRequested,
    DeploymentSubmitted,
)
from tunefleet_core.lifecycle.jobs import answered_name, remember
from tunefleet_core.lifecycle.placement import place_replicas
from tunefleet_core.lifecycle.replica_retries import failed_fields, ready_fields
from tunefleet_core.lifecycle.replicas import NOWHERE, fit_replicas, stop_replica
from tunefleet_core.lifecycle.rollouts import end_rollout
from tunefleet_core.lifecycle.rows import DeploymentRow, ReplicaRow, TrafficRow

__all__ = [
    "delete_deployment",
    "lose_replicas",
    "report_held_replicas",
    "report_replica",
    "scale_deployment",
    "submit_deployment",
]

_ON_ITS_WAY_OUT = frozenset(
    {DeploymentState.DEPLOYMENT_STATE_STOPPING, DeploymentState.DEPLOYMENT_STATE_DRAINING}
)


def submit_deployment(draft: Draft, asked: DeploymentSubmitted) -> Accepted:
    """Create a deployment, once per request."""
    name = answered_name(draft, asked.request)
    if name is not None:
        return Accepted(name=name, row=None)
    if draft.world.deployment_by_name(asked.name) is not None:
        raise TunefleetError(
            Reason.DEPLOYMENT_EXISTS,
            f"A deployment '{asked.deployment_id}' exists already in project '{asked.project}'.",
            hint="Pick another id, or roll a new version out in it: tunefleet deploy MODEL "
            f"--name {asked.deployment_id} --canary 5,25,100",
            metadata={"deployment": asked.name},
        )
    row = DeploymentRow(
        uid=asked.uid,
        name=asked.name,
        project=asked.project,
        deployment_id=asked.deployment_id,
        state=DeploymentState.DEPLOYMENT_STATE_PENDING,
        version=1,
        spec=asked.spec,
        engine=asked.engine,
        base_facts=asked.base_facts,
        adapter_manifest_digest=asked.adapter_manifest_digest,
        engine_model=asked.engine_model,
        create_time=draft.at.wall,
        update_time=draft.at.wall,
        replicas=asked.replicas,
    )
    draft.insert(row)
    draft.insert(TrafficRow(uid=row.uid, name=row.name, version=1))
    fit_replicas(draft, row)
    place_replicas(draft, row.uid)
    remember(draft, asked.request, row.name)
    return Accepted(name=row.name, row=row)


def delete_deployment(draft: Draft, asked: DeploymentDeleteRequested) -> DeploymentRow | Acknowledged:
    """Take every version of a deployment down: at once if no server holds it, else once its server did."""
    repeated = answered_name(draft, asked.request) is not None
    row = draft.world.deployment_by_name(asked.name)
    if row is None:
        if repeated or asked.allow_missing:
            return Acknowledged()
        raise no_deployment(asked)
    if repeated:
        return row
    traffic = draft.traffic(row.deployment_uid)
    if traffic is not None and traffic.is_rolling:
        end_rollout(draft, traffic, "The deployment is taken down.")
    for version in draft.versions_of(row.name):
        take_down(draft, version)
    remember(draft, asked.request, row.name)
    return row


def scale_deployment(draft: Draft, asked: DeploymentScaleRequested) -> DeploymentRow:
    """Have as many engines serve a deployment as asked; both of its versions while one is rolled out."""
    found = find_asked(draft, asked)
    row, traffic = found.row, found.traffic
    if found.is_repeated:
        return row
    check_etag(row, asked.etag)
    if not row.replicas:
        raise TunefleetError(
            Reason.STATE_CONFLICT,
            f"Deployment '{row.deployment_id}' is taken down.",
            hint=f"tunefleet deployments get {row.deployment_id}",
            metadata={"deployment": row.name},
        )
    for version in draft.versions_of(row.name):
        if not version.replicas or version.replicas == asked.replicas:
            continue
        spec = DeploymentSpec.FromString(version.spec)
        spec.replicas = asked.replicas
        scaled = DeploymentScaled(to=asked.replicas)
        setattr(scaled, "from", version.replicas)  # `from` is a word of Python
        traffic = append_events(draft, traffic, DeploymentEvent(version=version.number, scaled=scaled))
        changed = draft.write(
            version, replicas=asked.replicas, spec=spec.SerializeToString(deterministic=True)
        )
        fit_replicas(draft, changed)
        place_replicas(draft, changed.uid)
    remember(draft, asked.request, row.name)
    return row


def report_replica(draft: Draft, service: str, status: DeploymentStatus) -> None:
    """Take in where a server says a replica stands.

    Raises:
        TunefleetError: FENCED if the replica is not with this server, or was begun anew since.
    """
    row = draft.replica(status.deployment_uid)
    is_other = row is None or row.service != service or row.earlier_tries != status.earlier_tries
    if row is None or row.is_deleted or is_other:
        raise TunefleetError(
            Reason.FENCED,
            f"Deployment {status.deployment_uid} is not with {service}.",
            hint="Take it down; it is not in the desired set.",
            metadata={"deployment_uid": status.deployment_uid, "service": service},
        )
    is_held = status.state != DeploymentState.DEPLOYMENT_STATE_DELETED
    if row.is_held != is_held:
        row = draft.touch(row, is_held=is_held)
        if is_held and row.state == DeploymentState.DEPLOYMENT_STATE_STOPPING:
            row = draft.touch(row, deadline=None)  # it is heard of now, so its silence says nothing
    if row.state in _ON_ITS_WAY_OUT:
        if status.state == DeploymentState.DEPLOYMENT_STATE_DELETED:
            draft.write(row, state=DeploymentState.DEPLOYMENT_STATE_DELETED)
        elif row.state == DeploymentState.DEPLOYMENT_STATE_DRAINING and not _answers(status):
            stop_replica(draft, row)  # its engine is gone, and the requests in flight with it
    elif row.is_live:
        _update(draft, row, status)


def _answers(status: DeploymentStatus) -> bool:
    return status.state == DeploymentState.DEPLOYMENT_STATE_READY


def _update(draft: Draft, row: ReplicaRow, status: DeploymentStatus) -> None:
    state = status.state
    if state in (
        DeploymentState.DEPLOYMENT_STATE_DELETED,
        DeploymentState.DEPLOYMENT_STATE_PENDING,
        DeploymentState.DEPLOYMENT_STATE_UNSPECIFIED,
        DeploymentState.DEPLOYMENT_STATE_STOPPING,
    ):
        # It is wanted and not there: the server starts it again from its desired set.
        state = DeploymentState.DEPLOYMENT_STATE_STARTING
    is_ready = state == DeploymentState.DEPLOYMENT_STATE_READY
    has_failed = state == DeploymentState.DEPLOYMENT_STATE_FAILED
    address = status.engine_address if is_ready else ""
    contract = status.contract.SerializeToString() if status.HasField("contract") else row.contract
    error = status.error.SerializeToString() if status.HasField("error") else b""
    is_preparing = state == DeploymentState.DEPLOYMENT_STATE_PREPARING
    download = status.download.SerializeToString() if is_preparing else b""
    before = (row.state, row.engine_address, row.contract, row.error, row.download)
    if before != (state, address, contract, error, download):
        follows = {"state": state, "deadline": None}
        if has_failed:
            follows = failed_fields(draft, row, error)
        elif is_ready:
            follows |= ready_fields(draft, row)
        draft.write(row, engine_address=address, contract=contract, error=error, download=download, **follows)
    if has_failed:
        place_replicas(draft, row.version_uid)  # another of its version may have its place


def report_held_replicas(draft: Draft, service: str, held: Iterable[DeploymentStatus]) -> None:
    """Compare what an attaching server holds with what it should hold."""
    by_try = {(status.deployment_uid, status.earlier_tries): status for status in held}
    for row in draft.world.replicas_of_service(service):
        if row.state == DeploymentState.DEPLOYMENT_STATE_FAILED:
            continue
        gone = DeploymentStatus(
            deployment_uid=row.uid,
            state=DeploymentState.DEPLOYMENT_STATE_DELETED,
            earlier_tries=row.earlier_tries,
        )
        report_replica(draft, service, by_try.get((row.uid, row.earlier_tries), gone))


def lose_replicas(draft: Draft, service: str) -> None:
    """Give the replicas of a lost server to others."""
    moved: list[ReplicaRow] = []
    for row in draft.replicas_of_service(service):
        if row.state in _ON_ITS_WAY_OUT:
            draft.write(row, state=DeploymentState.DEPLOYMENT_STATE_DELETED)
        elif row.is_live:
            pending = DeploymentState.DEPLOYMENT_STATE_PENDING
            moved.append(draft.write(row, state=pending, deadline=None, **NOWHERE))
        elif row.state == DeploymentState.DEPLOYMENT_STATE_WAITING_RETRY:
            draft.write(row, **NOWHERE)
    for uid in dict.fromkeys(row.version_uid for row in moved):
        place_replicas(draft, uid)  # others that wait say now why they do
