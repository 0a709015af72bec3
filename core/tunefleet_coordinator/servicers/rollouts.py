"""Roll-outs of DeploymentService, and the watch of what happens to a deployment."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping

from tunefleet.deployment.v1 import deployment_service_pb2 as pb
from tunefleet.deployment.v1.rollout_pb2 import Rollout, RolloutState
from tunefleet_coordinator.admission import Admission
from tunefleet_coordinator.deployables import resolve_deployable
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.names import fresh_uid, parse_name
from tunefleet_coordinator.requests import request_of
from tunefleet_coordinator.resolver import Resolver
from tunefleet_coordinator.security import current_principal, require_project
from tunefleet_coordinator.views import deployment_view, rollout_view
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import (
    DeploymentRow,
    Input,
    PromoteRequested,
    RollbackRequested,
    RolloutRequested,
    TrafficRow,
    events_of,
    settle_policy,
)
from tunefleet_core.timestamps import timestamp_now

__all__ = ["RolloutDesk", "deployment_row"]

_LOG = logging.getLogger(__name__)
_HEARTBEAT_SECONDS = 10.0


class RolloutDesk:
    """Begins, moves, ends and shows roll-outs; the docs of each method are in the proto."""

    def __init__(self, kernel: Kernel, resolver: Resolver, admission: Admission) -> None:
        self._kernel = kernel
        self._resolver = resolver
        self._admission = admission

    async def roll_out(self, request: pb.RollOutDeploymentRequest) -> pb.RollOutDeploymentResponse:
        row = await deployment_row(self._kernel, request.name)
        policy = settle_policy(request.policy)
        if policy.evaluate_job:
            require_project(parse_name(policy.evaluate_job, "jobs", "policy.evaluate_job").project)
        with await self._admission.new_work():
            found = await resolve_deployable(self._resolver, row.project, request.spec, beside=row)
            rollout = await self._carry_out(
                RolloutRequested(
                    at=self._kernel.moment(),
                    request=request_of(request, "RollOutDeployment"),
                    name=row.name,
                    uid=fresh_uid(),
                    spec=found.spec.SerializeToString(deterministic=True),
                    engine=found.engine,
                    base_facts=found.base.SerializeToString(),
                    adapter_manifest_digest=found.adapter_manifest_digest,
                    engine_model=found.engine_model,
                    policy=policy.SerializeToString(deterministic=True),
                    evaluate_job=policy.evaluate_job,
                    replicas=found.spec.replicas,
                    etag=request.etag,
                ),
                f"roll out {request.spec.model}",
                request.request_id,
            )
        return pb.RollOutDeploymentResponse(rollout=rollout)

    async def promote(self, request: pb.PromoteDeploymentRequest) -> pb.PromoteDeploymentResponse:
        event = PromoteRequested(
            at=self._kernel.moment(),
            request=request_of(request, "PromoteDeployment"),
            name=_named(request.name),
            to_last_step=request.to_last_step,
        )
        rollout = await self._carry_out(event, "promote", request.request_id)
        return pb.PromoteDeploymentResponse(rollout=rollout)

    async def roll_back(self, request: pb.RollBackDeploymentRequest) -> pb.RollBackDeploymentResponse:
        event = RollbackRequested(
            at=self._kernel.moment(),
            request=request_of(request, "RollBackDeployment"),
            name=_named(request.name),
            reason=request.reason,
        )
        rollout = await self._carry_out(event, "roll back", request.request_id)
        return pb.RollBackDeploymentResponse(rollout=rollout)

    async def get(self, request: pb.GetRolloutRequest) -> pb.GetRolloutResponse:
        row = await deployment_row(self._kernel, request.name)
        found = await self._kernel.read(self._kernel.store.get_traffic, row.deployment_uid)
        if found is None or found[0].state == RolloutState.ROLLOUT_STATE_UNSPECIFIED:
            return pb.GetRolloutResponse()
        return pb.GetRolloutResponse(rollout=await self._view(*found))

    async def watch(self, request: pb.WatchDeploymentRequest) -> AsyncGenerator[pb.WatchDeploymentResponse]:
        row = await deployment_row(self._kernel, request.name)
        after = request.after_sequence
        if after < 0:
            raise TunefleetError.field("after_sequence", "must not be negative")
        with self._kernel.subscribe_deployment(row.deployment_uid) as changed:
            traffic = await self._traffic(row)
            yield await self._snapshot(row, traffic)
            while True:
                events = events_of(traffic, after)
                if events:
                    _require_kept(row, after, events[0].sequence)
                    after = events[-1].sequence
                    yield pb.WatchDeploymentResponse(events=pb.DeploymentEvents(events=events))
                if traffic.is_over:
                    row = await deployment_row(self._kernel, request.name)
                    yield await self._snapshot(row, traffic)
                    return
                if not await changed.wait(_HEARTBEAT_SECONDS):
                    beat = pb.DeploymentWatchHeartbeat(time=timestamp_now())
                    yield pb.WatchDeploymentResponse(heartbeat=beat)
                traffic = await self._traffic(row)

    async def _traffic(self, row: DeploymentRow) -> TrafficRow:
        found = await self._kernel.read(self._kernel.store.get_traffic, row.deployment_uid)
        return (
            found[0] if found else TrafficRow(uid=row.deployment_uid, name=row.name, version=0, is_over=True)
        )

    async def _carry_out(self, event: Input, verb: str, request_id: str) -> Rollout:
        """Have something done to a roll-out and return it as it is then."""
        answer = await self._kernel.submit(event)
        assert isinstance(answer, DeploymentRow)  # the answer to everything that is asked of a roll-out
        where = {"request": request_id, "deployment": answer.name}
        _LOG.info("%s asked: %s", current_principal().name, verb, extra=where)
        found = await self._kernel.read(self._kernel.store.get_traffic, answer.deployment_uid)
        assert found is not None  # it was just written
        return await self._view(*found)

    async def _view(self, traffic: TrafficRow, versions: Mapping[str, DeploymentRow]) -> Rollout:
        replicas = await self._kernel.read(self._kernel.store.list_replicas, list(versions))
        return rollout_view(traffic, versions, replicas)

    async def _snapshot(self, row: DeploymentRow, traffic: TrafficRow) -> pb.WatchDeploymentResponse:
        replicas = await self._kernel.read(self._kernel.store.list_replicas, [row.uid])
        view = deployment_view(row, traffic, replicas.get(row.uid, ()))
        return pb.WatchDeploymentResponse(snapshot=view)


async def deployment_row(kernel: Kernel, name: str) -> DeploymentRow:
    """Return the version that a deployment's name stands for.

    Raises:
        TunefleetError: DEPLOYMENT_NOT_FOUND; PERMISSION_DENIED for a project that is not the caller's.
    """
    named = _named(name)
    row = await kernel.read(kernel.store.get_deployment, named)
    if row is None:
        parsed = parse_name(name, "deployments")
        raise TunefleetError(
            Reason.DEPLOYMENT_NOT_FOUND,
            f"No deployment '{parsed.id}' in project '{parsed.project}'.",
            hint="tunefleet deployments list",
            metadata={"name": named},
        )
    return row


def _named(name: str) -> str:
    parsed = parse_name(name, "deployments")
    require_project(parsed.project)
    return str(parsed)


def _require_kept(row: DeploymentRow, after: int, oldest: int) -> None:
    """Refuse to leave out events that are no longer kept, unless the caller has none and wants what there is.

    Raises:
        TunefleetError: HISTORY_COMPACTED naming the oldest sequence.
    """
    if after and after + 1 < oldest:
        raise TunefleetError(
            Reason.HISTORY_COMPACTED,
            f"Events {after + 1} to {oldest - 1} of deployment '{row.deployment_id}' are no longer kept.",
            hint=f"Watch again with after_sequence={oldest - 1}.",
            metadata={"deployment": row.name, "oldest_sequence": str(oldest)},
        )
