"""DeploymentService."""

from __future__ import annotations

import re
import uuid

from tunefleet.deployment.v1 import deployment_service_pb2 as pb
from tunefleet.deployment.v1 import deployment_service_pb2_grpc as deployment_grpc
from tunefleet.deployment.v1.deployment_pb2 import Deployment, DeploymentSpec
from tunefleet.fleet.v1.fleet_pb2 import BaseQuestion
from tunefleet.job.v1.resolved_pb2 import ChatTemplate
from tunefleet.job.v1.spec_pb2 import TrainSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_coordinator.admission import Admission
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.names import check_id, parse_name, parse_parent
from tunefleet_coordinator.requests import request_of
from tunefleet_coordinator.resolver import Resolver
from tunefleet_coordinator.security import require_project
from tunefleet_coordinator.trained_model import TrainedModel, is_of_fleet
from tunefleet_coordinator.views import deployment_view
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import Accepted, DeploymentDeleteRequested, DeploymentRow, DeploymentSubmitted
from tunefleet_core.resolve import require_deployable, require_same_base, settle_engine
from tunefleet_core.rpc import RpcContext
from tunefleet_core.spec import written_rank

__all__ = ["DeploymentServicer"]

_DIGEST_SHOWN = 12


class DeploymentServicer(deployment_grpc.DeploymentServiceServicer):
    """Answers for deployments; the docs of each method are in the proto."""

    def __init__(self, kernel: Kernel, resolver: Resolver, admission: Admission) -> None:
        self._kernel = kernel
        self._resolver = resolver
        self._admission = admission

    async def GetDeployment(
        self, request: pb.GetDeploymentRequest, context: RpcContext
    ) -> pb.GetDeploymentResponse:
        return pb.GetDeploymentResponse(deployment=deployment_view(await self._row(request.name)))

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
        deployments = [deployment_view(row) for row in page.items]
        return pb.ListDeploymentsResponse(deployments=deployments, next_page_token=page.next_page_token)

    async def CreateDeployment(
        self, request: pb.CreateDeploymentRequest, context: RpcContext
    ) -> pb.CreateDeploymentResponse:
        project = parse_parent(request.parent)
        require_project(project)
        if not request.spec.model:
            raise TunefleetError.field("spec.model", "must be given: models/<name>, a folder or a Hub id")
        with await self._admission.new_work():
            submitted = await self._resolve(project, request)
            answer = await self._kernel.submit(submitted)
        assert isinstance(answer, Accepted)  # the answer to DeploymentSubmitted
        row = await self._row(answer.name)
        return pb.CreateDeploymentResponse(deployment=deployment_view(row))

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

    async def _resolve(self, project: str, request: pb.CreateDeploymentRequest) -> DeploymentSubmitted:
        model = request.spec.model
        digest = trained_with = written_as = ""
        adapted: TrainSpec | None = None
        template: ChatTemplate | None = None
        if is_of_fleet(model):
            trained = await self._resolver.trained_model(project, model)
            trained.require_writer("spec.model")
            stem = trained.row.name.rpartition("/")[2]
            engine_model = f"{stem}@{trained.row.manifest_digest[:_DIGEST_SHOWN]}"
            trained_with = trained.resolved.backend.name
            if trained.resolved.HasField("chat_template"):
                template = trained.resolved.chat_template
            if trained.is_whole:
                written_as = trained.resolved.spec.export.quantize.format
                if written_as:  # before its folder is read, which may be in no form that we read
                    await self._resolver.engine_for(request.spec.engine, "", stored_as=written_as)
                facts = await self._whole_model(trained)
            else:
                digest, adapted = trained.row.manifest_digest, trained.resolved.spec.train
                facts = await self._base_as_trained(trained)
        else:
            facts = await self._resolver.base_facts(BaseQuestion(model=model))
            stem = _slug(model)
            engine_model = f"base@{facts.base_digest[:_DIGEST_SHOWN]}"
        deployment_id = check_id(request.deployment_id or stem, "deployment_id")
        stored_as = written_as or facts.quantization.format
        engine = await self._resolver.engine_for(
            request.spec.engine, trained_with, stored_as=stored_as, facts=facts
        )
        if adapted is not None:
            require_deployable(adapted, engine.name)
        spec = DeploymentSpec()
        spec.CopyFrom(request.spec)
        settings = settle_engine(
            request.spec.engine_settings,
            engine,
            base=facts,
            parsers=self._resolver.parsers_of(engine.name, facts, template)
            if engine.engine_settings
            else None,
            template=template,
            rank=written_rank(adapted.adapter.lora) if adapted is not None else 0,
        )
        spec.engine_settings.CopyFrom(settings)
        return DeploymentSubmitted(
            at=self._kernel.moment(),
            request=request_of(request, "CreateDeployment"),
            uid=uuid.uuid4().hex,
            project=project,
            deployment_id=deployment_id,
            spec=spec.SerializeToString(deterministic=True),
            engine=engine.name,
            base_facts=facts.SerializeToString(),
            adapter_manifest_digest=digest,
            engine_model=engine_model,
        )

    async def _base_as_trained(self, trained: TrainedModel) -> BaseFacts:
        """Return the base of an adapter as it is now.

        Raises:
            TunefleetError: BASE_INVALID if it is not what the adapter was trained on.
        """
        base = trained.resolved.base
        if base.path and not base.manifest_digest:  # a manifest is what it is for ever
            require_same_base(base, await self._resolver.base_facts(trained.question), verb="served")
        return base

    async def _whole_model(self, trained: TrainedModel) -> BaseFacts:
        """Return a whole model of the store as the base that an engine serves."""
        question = trained.question
        if not trained.resolved.base.path:  # its backend does not look at bases, and so at no whole model
            return BaseFacts(model=question.model, manifest_digest=question.manifest_digest)
        return await self._resolver.base_facts(question)

    async def _row(self, name: str) -> DeploymentRow:
        parsed = parse_name(name, "deployments")
        require_project(parsed.project)
        row = await self._kernel.read(self._kernel.store.get_deployment, str(parsed))
        if row is None:
            raise TunefleetError(
                Reason.DEPLOYMENT_NOT_FOUND,
                f"No deployment '{parsed.id}' in project '{parsed.project}'.",
                hint="tunefleet deployments list",
                metadata={"name": str(parsed)},
            )
        return row


def _slug(model: str) -> str:
    """Return an id for a base that was deployed by folder or Hub id."""
    last = model.rstrip("/").rpartition("/")[2].lower()
    slug = re.sub(r"[^a-z0-9]+", "-", last).strip("-")
    return (slug if slug[:1].isalpha() else f"base-{slug}")[:63].rstrip("-")
