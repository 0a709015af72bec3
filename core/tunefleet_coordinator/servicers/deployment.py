"""DeploymentService."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from tunefleet.deployment.v1 import deployment_service_pb2 as pb
from tunefleet.deployment.v1 import deployment_service_pb2_grpc as deployment_grpc
from tunefleet.deployment.v1.deployment_pb2 import Deployment
from tunefleet_coordinator.admission import Admission
from tunefleet_coordinator.deployables import check_replicas, resolve_deployable
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.names import check_id, fresh_uid, parse_name, parse_parent
from tunefleet_coordinator.requests import request_of
from tunefleet_coordinator.resolver import Resolver
from tunefleet_coordinator.security import require_project
from tunefleet_coordinator.servicers.rollouts import RolloutDesk, deployment_row
from tunefleet_coordinator.views import deployment_view
from tunefleet_core.errors import TunefleetError
from tunefleet_core.lifecycle import (
    Accepted,
    DeploymentDeleteRequested,
    DeploymentRow,
    DeploymentScaleRequested,
    DeploymentSubmitted,
)
from tunefleet_core.rpc import RpcContext

__all__ = ["DeploymentServicer"]


class DeploymentServicer(deployment_grpc.DeploymentServiceServicer):
    """Answers for deployments; the docs of each method are in the proto."""

    def __init__(self, kernel: Kernel, resolver: Resolver, admission: Admission) -> None:
        self._kernel = kernel
        self._resolver = resolver
        self._admission = admission
        self._rollouts = RolloutDesk(kernel, resolver, admission)

    async def GetDeployment(
        self, request: pb.GetDeploymentRequest, context: RpcContext
    ) -> pb.GetDeploymentResponse:
        return pb.GetDeploymentResponse(deployment=await self._view(request.name))

    async def ListDeployments(
        self, request: pb.ListDeploymentsRequest, context: RpcContext
    ) -> pb.ListDeploymentsResponse:
        project = parse_parent(request.parent)
        require_project(project)
        page = await self._kernel.read(
            self._kernel.store.list_deployments,
            project,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        uids = [row.deployment_uid for row in page.items]
        traffic = await self._kernel.read(self._kernel.store.list_traffic, uids)
        replicas = await self._kernel.read(self._kernel.store.list_replicas, [row.uid for row in page.items])
        deployments = [
            deployment_view(row, traffic.get(row.deployment_uid), replicas.get(row.uid, ()))
            for row in page.items
        ]
        return pb.ListDeploymentsResponse(deployments=deployments, next_page_token=page.next_page_token)

    async def CreateDeployment(
        self, request: pb.CreateDeploymentRequest, context: RpcContext
    ) -> pb.CreateDeploymentResponse:
        project = parse_parent(request.parent)
        require_project(project)
        with await self._admission.new_work():
            found = await resolve_deployable(self._resolver, project, request.spec)
            answer = await self._kernel.submit(
                DeploymentSubmitted(
                    at=self._kernel.moment(),
                    request=request_of(request, "CreateDeployment"),
                    uid=fresh_uid(),
                    project=project,
                    deployment_id=check_id(request.deployment_id or found.stem, "deployment_id"),
                    spec=found.spec.SerializeToString(deterministic=True),
                    engine=found.engine,
                    base_facts=found.base.SerializeToString(),
                    adapter_manifest_digest=found.adapter_manifest_digest,
                    engine_model=found.engine_model,
                    replicas=found.spec.replicas,
                )
            )
        assert isinstance(answer, Accepted)  # the answer to DeploymentSubmitted
        return pb.CreateDeploymentResponse(deployment=await self._view(answer.name))

    async def DeleteDeployment(
        self, request: pb.DeleteDeploymentRequest, context: RpcContext
    ) -> pb.DeleteDeploymentResponse:
        name = parse_name(request.name, "deployments")
        require_project(name.project)
        answer = await self._kernel.submit(
            DeploymentDeleteRequested(
                at=self._kernel.moment(),
                request=request_of(request, "DeleteDeployment"),
                name=str(name),
                allow_missing=request.allow_missing,
            )
        )
        found = deployment_view(answer) if isinstance(answer, DeploymentRow) else Deployment(name=str(name))
        return pb.DeleteDeploymentResponse(deployment=found)

    async def ScaleDeployment(
        self, request: pb.ScaleDeploymentRequest, context: RpcContext
    ) -> pb.ScaleDeploymentResponse:
        name = parse_name(request.name, "deployments")
        require_project(name.project)
        if not request.replicas:
            raise TunefleetError.field(
                "replicas",
                "must be at least 1",
                hint=f"To take it down: tunefleet deployments delete {name.id}",
            )
        await self._kernel.submit(
            DeploymentScaleRequested(
                at=self._kernel.moment(),
                request=request_of(request, "ScaleDeployment"),
                name=str(name),
                replicas=check_replicas(request.replicas, "replicas"),
                etag=request.etag,
            )
        )
        return pb.ScaleDeploymentResponse(deployment=await self._view(str(name)))

    async def RollOutDeployment(
        self, request: pb.RollOutDeploymentRequest, context: RpcContext
    ) -> pb.RollOutDeploymentResponse:
        return await self._rollouts.roll_out(request)

    async def PromoteDeployment(
        self, request: pb.PromoteDeploymentRequest, context: RpcContext
    ) -> pb.PromoteDeploymentResponse:
        return await self._rollouts.promote(request)

    async def RollBackDeployment(
        self, request: pb.RollBackDeploymentRequest, context: RpcContext
    ) -> pb.RollBackDeploymentResponse:
        return await self._rollouts.roll_back(request)

    async def GetRollout(self, request: pb.GetRolloutRequest, context: RpcContext) -> pb.GetRolloutResponse:
        return await self._rollouts.get(request)

    async def WatchDeployment(
        self, request: pb.WatchDeploymentRequest, context: RpcContext
    ) -> AsyncGenerator[pb.WatchDeploymentResponse]:
        async for response in self._rollouts.watch(request):
            yield response

    async def _view(self, name: str) -> Deployment:
        row = await deployment_row(self._kernel, name)
        found = await self._kernel.read(self._kernel.store.get_traffic, row.deployment_uid)
        replicas = await self._kernel.read(self._kernel.store.list_replicas, [row.uid])
        return deployment_view(row, found[0] if found else None, replicas.get(row.uid, ()))
