"""ModelService."""

from __future__ import annotations

from collections.abc import Sequence

from tunefleet.model.v1 import model_service_pb2 as pb
from tunefleet.model.v1 import model_service_pb2_grpc as model_grpc
from tunefleet.model.v1.model_pb2 import Model
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.names import ResourceName, parse_name, parse_parent
from tunefleet_coordinator.pruning import Pruner
from tunefleet_coordinator.requests import request_of
from tunefleet_coordinator.security import require_project
from tunefleet_coordinator.store.answers import answered
from tunefleet_coordinator.views import model_view
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import ModelRow, SpecRow
from tunefleet_core.rpc import RpcContext

__all__ = ["ModelServicer"]


class ModelServicer(model_grpc.ModelServiceServicer):
    """Answers for models; the docs of each method are in the proto."""

    def __init__(self, kernel: Kernel, pruner: Pruner) -> None:
        self._kernel = kernel
        self._pruner = pruner

    async def GetModel(self, request: pb.GetModelRequest, context: RpcContext) -> pb.GetModelResponse:
        name = parse_name(request.name, "models")
        require_project(name.project)
        row = await self._kernel.read(self._kernel.store.get_model, str(name))
        if row is None:
            raise _not_found(name)
        asked = await self._kernel.read(self._kernel.store.get_specs, _exports([row]))
        return pb.GetModelResponse(model=await self._view(row, asked.get(row.uid)))

    async def ListModels(self, request: pb.ListModelsRequest, context: RpcContext) -> pb.ListModelsResponse:
        project = parse_parent(request.parent)
        require_project(project)
        page = await self._kernel.read(
            self._kernel.store.list_models,
            project,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        asked = await self._kernel.read(self._kernel.store.get_specs, _exports(page.items))
        models = [await self._view(row, asked.get(row.uid)) for row in page.items]
        return pb.ListModelsResponse(models=models, next_page_token=page.next_page_token)

    async def DeleteModel(
        self, request: pb.DeleteModelRequest, context: RpcContext
    ) -> pb.DeleteModelResponse:
        name = parse_name(request.name, "models")
        require_project(name.project)
        idempotency = request_of(request, "DeleteModel")
        store = self._kernel.store
        if await self._kernel.read(store.read, answered, idempotency) is not None:
            return pb.DeleteModelResponse()
        row = await self._kernel.read(store.get_model, str(name))
        if row is not None:
            await self._pruner.delete_model(row.name, row.manifest_digest, idempotency)
        elif not request.allow_missing:
            raise _not_found(name)
        return pb.DeleteModelResponse()

    async def _view(self, row: ModelRow, asked: SpecRow | None) -> Model:
        manifest = await self._kernel.read(self._kernel.store.get_manifest, row.manifest_digest)
        return model_view(row, manifest, made_by=asked)


def _exports(rows: Sequence[ModelRow]) -> list[str]:
    """Return the jobs of whole models by uid, which is the model's own: an adapter has no format."""
    return [row.uid for row in rows if row.kind == "model"]


def _not_found(name: ResourceName) -> TunefleetError:
    return TunefleetError(
        Reason.MODEL_NOT_FOUND,
        f"No model '{name.id}' in project '{name.project}'.",
        hint="tunefleet models list",
        metadata={"name": str(name)},
    )
