"""From what the core wants of a service to the message it is sent."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from tunefleet.deployment.v1.deployment_pb2 import DeploymentSpec
from tunefleet.deployment.v1.rollout_pb2 import RolloutPolicy
from tunefleet.fleet.v1.fleet_pb2 import (
    Assignment,
    DeploymentAssignment,
    DesiredSet,
    Route,
    Service,
    ServiceKind,
    ServiceState,
)
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_coordinator.inspections import InspectionBroker
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.security import MemberBook, TokenBook
from tunefleet_core.lifecycle import (
    DesiredAssignment,
    DesiredReplica,
    DesiredView,
    SpecRow,
    World,
    checkpoint_ref,
)
from tunefleet_core.timestamps import timestamp_of

__all__ = ["DesiredSets"]


class DesiredSets:
    """Builds the desired set of any service."""

    def __init__(
        self, kernel: Kernel, broker: InspectionBroker, tokens: TokenBook, members: MemberBook
    ) -> None:
        self._members = members
        self._kernel = kernel
        self._broker = broker
        self._tokens = tokens
        # By service, what its last set was made of: most of it is in the next one too.
        self._made: dict[str, dict[Hashable, Assignment]] = {}

    async def build(self, service: str) -> DesiredSet:
        """Return what a service is to hold now, without a generation."""
        view = await self._kernel.desired(service)
        desired = DesiredSet(inspections=self._broker.questions_for(service))
        for assignment in await self._assignments(service, view.assignments):
            desired.assignments.add().CopyFrom(assignment)
        desired.deployments.extend(_deployment(row) for row in view.deployments)
        desired.routes.extend(_route(row, view) for row in view.routes)
        desired.draining.extend(view.draining)
        desired.draining_replicas.extend(view.draining_replicas)
        if self._members.has(service):
            desired.relays.extend(await self._kernel.observe(_relays))
        if await self._kernel.observe(lambda world: service in world.gateways()):
            self._add_tokens(desired)
            for sha256, principal in self._members.living():
                if principal.kind == ServiceKind.SERVICE_KIND_SERVER:
                    desired.relay_certificates.add(service=principal.service, sha256=sha256)
        return desired

    def _add_tokens(self, desired: DesiredSet) -> None:
        for digest, principal in self._tokens.users():
            if principal.project == "*" and principal.expire_time is None:
                desired.token_digests.append(digest)
                continue
            grant = desired.token_grants.add(digest=digest)
            if principal.project != "*":
                grant.project = principal.project
            if principal.expire_time is not None:
                grant.expire_time.CopyFrom(timestamp_of(principal.expire_time))

    async def _assignments(self, service: str, items: Sequence[DesiredAssignment]) -> list[Assignment]:
        if not items:
            self._made.pop(service, None)
            return []
        before, now = self._made.get(service, {}), dict[Hashable, Assignment]()
        fresh = [item.job.uid for item in items if _key(item) not in before]
        # One trip to the thread that reads for all of them, not one each.
        specs = await self._kernel.read(self._kernel.store.get_specs, fresh) if fresh else {}
        for item in items:
            key = _key(item)
            now[key] = before.get(key) or _assignment(item, specs.get(item.job.uid))
        self._made[service] = now
        return list(now.values())


def _key(item: DesiredAssignment) -> Hashable:
    """Return what an assignment is made of, as far as it can change."""
    attempt = item.attempt
    return (item.job.uid, attempt.attempt, attempt.fencing_number, item.goal, attempt.checkpoint_requests)


def _assignment(item: DesiredAssignment, spec: SpecRow | None) -> Assignment:
    job, attempt = item.job, item.attempt
    assignment = Assignment(
        job=job.name,
        job_uid=job.uid,
        attempt=attempt.attempt,
        fencing_number=attempt.fencing_number,
        goal=item.goal,
        resolved_spec_digest=job.resolved_spec_digest,
        device_ids=attempt.device_ids,
        backend=job.backend,
        checkpoint_requests=attempt.checkpoint_requests,
    )
    if spec is not None:
        assignment.resolved_spec.ParseFromString(spec.resolved_spec)
    if attempt.resume_from is not None:
        assignment.resume_from.CopyFrom(checkpoint_ref(attempt.resume_from))
    return assignment


def _deployment(held: DesiredReplica) -> DeploymentAssignment:
    row = held.version
    spec = DeploymentSpec.FromString(row.spec)
    return DeploymentAssignment(
        deployment=row.name,
        deployment_uid=held.uid,
        engine=row.engine,
        base=BaseFacts.FromString(row.base_facts),
        adapter_manifest_digest=row.adapter_manifest_digest,
        engine_model=row.engine_model,
        device_ids=held.replica.device_ids,
        max_context_tokens=spec.max_context_tokens,
        earlier_tries=held.replica.earlier_tries,
        engine_settings=spec.engine_settings,
    )


def _route(sent: DesiredReplica, view: DesiredView) -> Route:
    row = sent.version
    route = Route(
        model=row.deployment_id,
        engine_address=sent.replica.engine_address,
        engine_model=row.engine_model,
        project=row.project,
        create_time=timestamp_of(row.create_time),
        deployment_uid=row.uid,
        replica_uid=sent.uid,
        weight=view.shares[row.uid],
    )
    rolling = view.splits.get(row.deployment_uid)
    if rolling is not None:
        route.split.rollout = rolling.candidate
        route.split.is_candidate = row.uid == rolling.candidate
        route.split.sticky = RolloutPolicy.FromString(rolling.policy).sticky
    return route


def _relays(world: World) -> list[str]:
    """Return where gateways that are heard from take relays of servers of other machines."""
    rows = (world.service(name) for name in world.gateways())
    doors = (
        Service.FromString(row.description).endpoints.get("relay", "")
        for row in rows
        if row is not None and row.state != ServiceState.SERVICE_STATE_LOST
    )
    return sorted({door for door in doors if door})
